//! CustomResourceDefinitions and APIServices: what they must say of themselves. What they make the server serve is not
//! known here.

use coracle_api::fields::{FieldError, FieldPath};
use coracle_api::names;
use coracle_api::object::Object;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceConversion, CustomResourceDefinition, CustomResourceDefinitionNames, CustomResourceDefinitionSpec,
};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;

use super::check::{self, fill, text};
use super::kind::{Errors, Kind};
use crate::registry::context::Context;

const SPEC: FieldPath<'static> = FieldPath::new("spec");

pub(super) struct Definitions;

impl Kind for Definitions {
    type Type = CustomResourceDefinition;

    fn default(&self, definition: &mut CustomResourceDefinition) {
        let spec = &mut definition.spec;
        fill(&mut spec.names.singular, &spec.names.kind.to_lowercase());
        if !spec.names.kind.is_empty() {
            fill(&mut spec.names.list_kind, &format!("{}List", spec.names.kind));
        }
        spec.conversion.get_or_insert_with(|| CustomResourceConversion {
            strategy: "None".to_owned(),
            ..CustomResourceConversion::default()
        });
    }

    fn prepare_for_create(&self, _context: &Context, object: &mut Object) {
        // Versions that have been stored are what a migration goes by.
        let versions = object.typed_at::<CustomResourceDefinitionSpec>(&["spec"]).ok().flatten();
        let storage = versions.iter().flat_map(|spec| &spec.versions).filter(|version| version.storage);
        let stored: Vec<serde_json::Value> = storage.map(|version| version.name.clone().into()).collect();
        object.set(&["status"], serde_json::json!({ "storedVersions": stored }));
    }

    fn validate_create(&self, _context: &Context, definition: &CustomResourceDefinition, errors: &mut Errors) {
        let spec = &definition.spec;
        let wanted = format!("{}.{}", spec.names.plural, spec.group);
        let name = text(&definition.metadata.name);
        if name != wanted {
            let detail = "must be spec.names.plural+\".\"+spec.group";
            errors.push(FieldError::invalid(&FieldPath::new("metadata.name"), name, detail));
        }
        let path = SPEC.child("group");
        if spec.group.is_empty() {
            errors.push(FieldError::required(&path, ""));
        } else {
            check::dns_subdomain(&spec.group, &path, errors);
            if !spec.group.contains('.') {
                let detail = "should be a domain with at least one dot";
                errors.push(FieldError::invalid(&path, &spec.group, detail));
            }
        }
        check::one_of(&spec.scope, &["Cluster", "Namespaced"], &SPEC.child("scope"), errors);
        kind_names(&spec.names, errors);
        versions(spec, errors);
    }

    fn validate_update(
        &self,
        context: &Context,
        new: &CustomResourceDefinition,
        old: &CustomResourceDefinition,
        errors: &mut Errors,
    ) {
        self.validate_create(context, new, errors);
        check::immutable(&new.spec.group, &old.spec.group, &SPEC.child("group"), errors);
        check::immutable(&new.spec.names.plural, &old.spec.names.plural, &SPEC.child("names.plural"), errors);
        let established = old.status.iter().flat_map(|status| status.conditions.iter().flatten());
        if established.into_iter().any(|condition| condition.type_ == "Established" && condition.status == "True") {
            check::immutable(&new.spec.scope, &old.spec.scope, &SPEC.child("scope"), errors);
            check::immutable(&new.spec.names.kind, &old.spec.names.kind, &SPEC.child("names.kind"), errors);
        }
    }
}

fn kind_names(names: &CustomResourceDefinitionNames, errors: &mut Errors) {
    let path = SPEC.child("names");
    let required = [("plural", names.plural.as_str()), ("kind", names.kind.as_str())];
    for (field, value) in required {
        check::required_text(value, &path.child(field), errors);
    }
    let labels = [
        ("plural", names.plural.clone()),
        ("singular", text(&names.singular).to_owned()),
        ("kind", names.kind.to_lowercase()),
        ("listKind", text(&names.list_kind).to_lowercase()),
    ];
    for (field, value) in labels.iter().filter(|(_, value)| !value.is_empty()) {
        let detail: Vec<String> = names::dns1035_label(value)
            .into_iter()
            .map(|why| {
                if field.ends_with("ind") {
                    format!("may have mixed case, but should otherwise match: {why}")
                } else {
                    why
                }
            })
            .collect();
        check::problems(detail, &path.child(field), value, errors);
    }
    let list = path.child("shortNames");
    for (i, name) in names.short_names.iter().flatten().enumerate() {
        check::problems(coracle_api::names::dns1035_label(name), &list.index(i), name, errors);
    }
    if text(&names.list_kind) == names.kind && !names.kind.is_empty() {
        let detail = "kind and listKind may not be the same";
        errors.push(FieldError::invalid(&path.child("listKind"), text(&names.list_kind), detail));
    }
}

fn versions(spec: &CustomResourceDefinitionSpec, errors: &mut Errors) {
    let list = SPEC.child("versions");
    if spec.versions.is_empty() {
        errors.push(FieldError::required(&list, "must have at least one version"));
    }
    for (i, version) in spec.versions.iter().enumerate() {
        let at = list.index(i);
        check::problems(names::dns1035_label(&version.name), &at.child("name"), &version.name, errors);
        if spec.versions[..i].iter().any(|other| other.name == version.name) {
            errors.push(FieldError::invalid(&list, &version.name, "must contain unique version names"));
        }
        let schema = version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref());
        let path = at.child("schema.openAPIV3Schema");
        match schema {
            None => errors.push(FieldError::required(&path, "schemas are required")),
            Some(schema)
                if text(&schema.type_) != "object" && schema.x_kubernetes_preserve_unknown_fields.is_none() =>
            {
                let detail = "must be object";
                errors.push(FieldError::invalid(&path.child("type"), text(&schema.type_), detail));
            }
            Some(_) => {}
        }
    }
    let storage = spec.versions.iter().filter(|version| version.storage).count();
    if storage != 1 && !spec.versions.is_empty() {
        let detail = "must have exactly one version marked as storage version";
        let shown: Vec<&str> = spec.versions.iter().map(|version| version.name.as_str()).collect();
        errors.push(FieldError::invalid(&list, shown, detail));
    }
}

pub(super) struct ApiServices;

impl Kind for ApiServices {
    type Type = APIService;
    const DEFAULTS: bool = false;

    fn validate_create(&self, _context: &Context, service: &APIService, errors: &mut Errors) {
        let Some(spec) = &service.spec else {
            errors.push(FieldError::required(&SPEC, ""));
            return;
        };
        let (group, version) = (text(&spec.group), text(&spec.version));
        let wanted = format!("{version}.{group}");
        let name = text(&service.metadata.name);
        if name != wanted {
            let detail = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
            errors.push(FieldError::invalid(&FieldPath::new("metadata.name"), name, detail));
        }
        if group.is_empty() {
            if version != "v1" {
                let detail = "only v1 may have an empty group and it better be legacy kube";
                errors.push(FieldError::required(&SPEC.child("group"), detail));
            }
        } else {
            check::dns_subdomain(group, &SPEC.child("group"), errors);
        }
        check::problems(names::dns1035_label(version), &SPEC.child("version"), version, errors);
        for (field, value, max) in [
            ("groupPriorityMinimum", spec.group_priority_minimum, 20_000),
            ("versionPriority", spec.version_priority, 1_000),
        ] {
            if value <= 0 || value > max {
                let detail = format!("must be positive and less than {max}");
                errors.push(FieldError::invalid(&SPEC.child(field), value, detail));
            }
        }
        let insecure = spec.insecure_skip_tls_verify == Some(true);
        if insecure && spec.ca_bundle.as_ref().is_some_and(|bundle| !bundle.0.is_empty()) {
            let detail = "may not be true if caBundle is present";
            errors.push(FieldError::invalid(&SPEC.child("insecureSkipTLSVerify"), true, detail));
        }
        if let Some(service) = &spec.service {
            check::required_text(text(&service.namespace), &SPEC.child("service.namespace"), errors);
            check::required_text(text(&service.name), &SPEC.child("service.name"), errors);
        }
    }

    fn validate_update(&self, context: &Context, new: &APIService, _old: &APIService, errors: &mut Errors) {
        self.validate_create(context, new, errors);
    }
}
