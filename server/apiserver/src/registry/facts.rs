//! Facts about built-in kinds that the generic registry acts on: a table, so that no kind has code of its own here.
//! A kind that is not in the table is ordinary.

/// How names of a kind are formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameRule {
    Subdomain,
    Label,
    /// A DNS-1035 label (Service): starts with a letter.
    Label1035,
    /// Anything that fits into a path (RBAC, IPAddress).
    PathSegment,
}

/// What `metadata.generation` counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// The kind has none.
    None,
    /// Changes of anything but metadata and status.
    Spec,
    /// Changes of annotations too (Deployment).
    SpecAndAnnotations,
}

/// How a kind's dependents fare when nothing is asked for at deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GarbageCollection {
    /// Dependents are deleted in the background.
    DeleteDependents,
    /// The kind takes no part: finalizers for it are never set (Events).
    Unsupported,
}

#[derive(Debug, Clone, Copy)]
pub struct Facts {
    pub name: NameRule,
    pub generation: Generation,
    /// PUT on a name that does not exist creates it.
    pub create_on_update: bool,
    /// An update may come without `metadata.resourceVersion`.
    pub unconditional_update: bool,
    /// A finished deletion answers with the object and not with a Status.
    pub returns_deleted: bool,
    /// Deletion waits for a grace period (pods).
    pub graceful: bool,
    pub garbage_collection: GarbageCollection,
}

impl Facts {
    pub const ORDINARY: Facts = Facts {
        name: NameRule::Subdomain,
        generation: Generation::None,
        create_on_update: false,
        unconditional_update: true,
        returns_deleted: false,
        graceful: false,
        garbage_collection: GarbageCollection::DeleteDependents,
    };

    /// Facts of a custom resource: it always counts generations.
    pub const CUSTOM: Facts = Facts { generation: Generation::Spec, unconditional_update: false, ..Facts::ORDINARY };

    /// Upstream's messages about a name; `prefix` for a generateName, whose last character may be a dash.
    pub fn name_problems(&self, name: &str, prefix: bool) -> Vec<String> {
        let masked;
        let name = match name.strip_suffix('-') {
            Some(stem) if prefix => {
                masked = format!("{stem}a");
                &masked
            }
            Some(_) | None => name,
        };
        match self.name {
            NameRule::Subdomain => coracle_api::names::dns1123_subdomain(name),
            NameRule::Label => coracle_api::names::dns1123_label(name),
            NameRule::Label1035 => coracle_api::names::dns1035_label(name),
            NameRule::PathSegment => coracle_api::names::path_segment(name),
        }
    }
}

const GENERATIONAL: Facts = Facts { generation: Generation::Spec, ..Facts::ORDINARY };

/// The facts of a built-in resource, by its group and plural.
pub fn of(group: &str, plural: &str) -> Facts {
    match (group, plural) {
        ("", "pods") => Facts { returns_deleted: true, graceful: true, ..GENERATIONAL },
        ("" | "events.k8s.io", "events") => {
            Facts { create_on_update: true, garbage_collection: GarbageCollection::Unsupported, ..Facts::ORDINARY }
        }
        ("", "namespaces") => Facts { name: NameRule::Label, returns_deleted: true, ..Facts::ORDINARY },
        ("", "services") => Facts { name: NameRule::Label1035, returns_deleted: true, ..Facts::ORDINARY },
        ("", "endpoints" | "limitranges") => Facts { create_on_update: true, ..Facts::ORDINARY },
        ("", "serviceaccounts" | "resourcequotas" | "persistentvolumeclaims" | "persistentvolumes") => {
            Facts { returns_deleted: true, ..Facts::ORDINARY }
        }
        ("", "podtemplates") => Facts { returns_deleted: true, ..GENERATIONAL },
        ("", "replicationcontrollers") => GENERATIONAL,
        ("apps", "deployments") => Facts { generation: Generation::SpecAndAnnotations, ..Facts::ORDINARY },
        ("apps", "replicasets" | "statefulsets" | "daemonsets") => GENERATIONAL,
        ("batch", "jobs" | "cronjobs") => GENERATIONAL,
        ("policy", "poddisruptionbudgets") => Facts { unconditional_update: false, ..GENERATIONAL },
        ("networking.k8s.io", "ingresses" | "networkpolicies" | "ingressclasses") => GENERATIONAL,
        ("networking.k8s.io", "ipaddresses") => Facts { name: NameRule::PathSegment, ..Facts::ORDINARY },
        ("discovery.k8s.io", "endpointslices") => GENERATIONAL,
        ("admissionregistration.k8s.io" | "flowcontrol.apiserver.k8s.io" | "apiextensions.k8s.io", _) => {
            Facts { unconditional_update: false, ..GENERATIONAL }
        }
        ("apiregistration.k8s.io", _) => Facts { unconditional_update: false, ..Facts::ORDINARY },
        ("resource.k8s.io", "deviceclasses" | "resourceslices" | "devicetaintrules") => GENERATIONAL,
        ("coordination.k8s.io", _) | ("node.k8s.io", "runtimeclasses") => {
            Facts { create_on_update: true, unconditional_update: false, ..Facts::ORDINARY }
        }
        ("rbac.authorization.k8s.io", _) => Facts { name: NameRule::PathSegment, ..Facts::ORDINARY },
        ("storage.k8s.io", "csidrivers") => Facts { unconditional_update: false, ..GENERATIONAL },
        ("storage.k8s.io", "csinodes") => Facts { unconditional_update: false, ..Facts::ORDINARY },
        ("storage.k8s.io", "storageclasses") => Facts { returns_deleted: true, ..Facts::ORDINARY },
        _ => Facts::ORDINARY,
    }
}
