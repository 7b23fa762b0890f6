//! Owns which columns each kind is shown with. A line is `Kind.group: columns`; a column is `Title`, with `:integer` or
//! `:boolean` when it is no string, `=name` when it is the object's name, and `+` when only the wide output shows it.

use std::collections::HashMap;
use std::sync::OnceLock;

use super::Printer;
use super::{cluster, core, network, pods, policy, storage, workloads};

/// A column of a table.
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) ty: &'static str,
    pub(super) format: &'static str,
    pub(super) priority: i32,
}

fn parse(columns: &'static str) -> Vec<Column> {
    columns
        .split(',')
        .map(|column| {
            let column = column.trim();
            let (column, priority) = column.strip_suffix('+').map_or((column, 0), |column| (column, 1));
            let (column, format) = column.strip_suffix("=name").map_or((column, ""), |column| (column, "name"));
            let (name, ty) = column.split_once(':').unwrap_or((column, "string"));
            Column { name, ty, format, priority }
        })
        .collect()
}

/// The printer of a kind that is not shown by name and age alone.
pub(super) fn of(group: &str, kind: &str) -> Option<&'static Printer> {
    static ALL: OnceLock<HashMap<&'static str, Vec<(&'static str, Printer)>>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        let mut all: HashMap<&'static str, Vec<(&'static str, Printer)>> = HashMap::new();
        for (name, columns, print) in PRINTERS {
            let (kind, group) = name.split_once('.').expect("each line names Kind.group");
            all.entry(kind).or_default().push((group, Printer { columns: parse(columns), print: *print }));
        }
        all
    });
    all.get(kind)?.iter().find(|(own, _)| *own == group).map(|(_, printer)| printer)
}

/// How a kind is shown of which nothing is known, such as a custom one.
pub(super) fn default() -> &'static Printer {
    static DEFAULT: OnceLock<Printer> = OnceLock::new();
    DEFAULT.get_or_init(|| Printer { columns: parse("Name=name, Created At:date"), print: cluster::name_and_created })
}

/// Each kind's name and columns, as written down.
#[cfg(test)]
pub(super) fn lines() -> impl Iterator<Item = (&'static str, &'static str)> {
    PRINTERS.iter().map(|(name, columns, _)| (*name, *columns))
}

type Line = (&'static str, &'static str, super::Print);

#[rustfmt::skip]
const PRINTERS: &[Line] = &[
    ("Pod.", "Name=name, Ready, Status, Restarts, Age, IP+, Node+, Nominated Node+, Readiness Gates+", pods::pod),
    ("PodTemplate.", "Name=name, Containers, Images, Pod Labels", workloads::pod_template),
    ("PodDisruptionBudget.policy", "Name=name, Min Available, Max Unavailable, Allowed Disruptions:integer, Age", policy::pod_disruption_budget),
    ("ReplicationController.", "Name=name, Desired:integer, Current:integer, Ready:integer, Age, Containers+, Images+, Selector+", workloads::replication_controller),
    ("ReplicaSet.apps", "Name=name, Desired:integer, Current:integer, Ready:integer, Age, Containers+, Images+, Selector+", workloads::replica_set),
    ("DaemonSet.apps", "Name=name, Desired:integer, Current:integer, Ready:integer, Up-to-date:integer, Available:integer, Node Selector, Age, Containers+, Images+, Selector+", workloads::daemon_set),
    ("Job.batch", "Name=name, Status, Completions, Duration, Age, Containers+, Images+, Selector+", workloads::job),
    ("CronJob.batch", "Name=name, Schedule, Timezone, Suspend:boolean, Active:integer, Last Schedule, Age, Containers+, Images+, Selector+", workloads::cron_job),
    ("Service.", "Name=name, Type, Cluster-IP, External-IP, Port(s), Age, Selector+", network::service),
    ("Ingress.networking.k8s.io", "Name=name, Class, Hosts, Address, Ports, Age", network::ingress),
    ("IngressClass.networking.k8s.io", "Name=name, Controller, Parameters, Age", network::ingress_class),
    ("StatefulSet.apps", "Name=name, Ready, Age, Containers+, Images+", workloads::stateful_set),
    ("Endpoints.", "Name=name, Endpoints, Age", network::endpoints),
    ("Node.", "Name=name, Status, Roles, Age, Version, Internal-IP+, External-IP+, OS-Image+, Kernel-Version+, Container-Runtime+", core::node),
    ("Event.", "Last Seen, Type, Reason, Object, Subobject+, Source+, Message, First Seen+, Count+, Name=name+", core::event),
    ("Event.events.k8s.io", "Last Seen, Type, Reason, Object, Subobject+, Source+, Message, First Seen+, Count+, Name=name+", core::event),
    ("Namespace.", "Name=name, Status, Age", core::namespace),
    ("Secret.", "Name=name, Type, Data, Age", core::secret),
    ("ServiceAccount.", "Name=name, Age", core::service_account),
    ("PersistentVolume.", "Name=name, Capacity, Access Modes, Reclaim Policy, Status, Claim, StorageClass, VolumeAttributesClass, Reason, Age, VolumeMode+", storage::persistent_volume),
    ("PersistentVolumeClaim.", "Name=name, Status, Volume, Capacity, Access Modes, StorageClass, VolumeAttributesClass, Age, VolumeMode+", storage::persistent_volume_claim),
    ("ComponentStatus.", "Name=name, Status, Message, Error", core::component_status),
    ("Deployment.apps", "Name=name, Ready, Up-to-date, Available, Age, Containers+, Images+, Selector+", workloads::deployment),
    ("HorizontalPodAutoscaler.autoscaling", "Name=name, Reference, Targets, MinPods, MaxPods, Replicas, Age", policy::horizontal_pod_autoscaler),
    ("ConfigMap.", "Name=name, Data, Age", core::config_map),
    ("NetworkPolicy.networking.k8s.io", "Name=name, Pod-Selector, Age", network::network_policy),
    ("RoleBinding.rbac.authorization.k8s.io", "Name=name, Role, Age, Users+, Groups+, ServiceAccounts+", policy::role_binding),
    ("ClusterRoleBinding.rbac.authorization.k8s.io", "Name=name, Role, Age, Users+, Groups+, ServiceAccounts+", policy::role_binding),
    ("CertificateSigningRequest.certificates.k8s.io", "Name=name, Age, SignerName, Requestor, RequestedDuration, Condition", cluster::certificate_signing_request),
    ("ClusterTrustBundle.certificates.k8s.io", "Name=name, SignerName", cluster::cluster_trust_bundle),
    ("PodCertificateRequest.certificates.k8s.io", "Name=name, PodName, ServiceAccountName, NodeName, SignerName, State", cluster::pod_certificate_request),
    ("Lease.coordination.k8s.io", "Name=name, Holder, Age", cluster::lease),
    ("LeaseCandidate.coordination.k8s.io", "Name=name, LeaseName, BinaryVersion, EmulationVersion, Age", cluster::lease_candidate),
    ("StorageClass.storage.k8s.io", "Name=name, Provisioner, ReclaimPolicy, VolumeBindingMode, AllowVolumeExpansion, Age", storage::storage_class),
    ("VolumeAttributesClass.storage.k8s.io", "Name=name, DriverName, Age", storage::volume_attributes_class),
    ("Status.", "Status, Reason, Message", core::status),
    ("ControllerRevision.apps", "Name=name, Controller, Revision, Age", workloads::controller_revision),
    ("ResourceQuota.", "Name=name, Request, Limit, Age", policy::resource_quota),
    ("PriorityClass.scheduling.k8s.io", "Name=name, Value:integer, Global-Default:boolean, Age, PreemptionPolicy", policy::priority_class),
    ("RuntimeClass.node.k8s.io", "Name=name, Handler, Age", cluster::runtime_class),
    ("VolumeAttachment.storage.k8s.io", "Name=name, Attacher=name, PV, Node, Attached:boolean, Age", storage::volume_attachment),
    ("EndpointSlice.discovery.k8s.io", "Name=name, AddressType, Ports, Endpoints, Age", network::endpoint_slice),
    ("CSINode.storage.k8s.io", "Name=name, Drivers:integer, Age", storage::csi_node),
    ("CSIDriver.storage.k8s.io", "Name=name, AttachRequired:boolean, PodInfoOnMount:boolean, StorageCapacity:boolean, TokenRequests, RequiresRepublish:boolean, Modes, Age", storage::csi_driver),
    ("CSIStorageCapacity.storage.k8s.io", "Name=name, StorageClassName, Capacity", storage::csi_storage_capacity),
    ("MutatingWebhookConfiguration.admissionregistration.k8s.io", "Name=name, Webhooks:integer, Age", policy::webhooks),
    ("ValidatingWebhookConfiguration.admissionregistration.k8s.io", "Name=name, Webhooks:integer, Age", policy::webhooks),
    ("ValidatingAdmissionPolicy.admissionregistration.k8s.io", "Name=name, Validations:integer, ParamKind, Age", policy::validating_policy),
    ("ValidatingAdmissionPolicyBinding.admissionregistration.k8s.io", "Name=name, PolicyName, ParamRef, Age", policy::policy_binding),
    ("MutatingAdmissionPolicy.admissionregistration.k8s.io", "Name=name, Mutations:integer, ParamKind, Age", policy::mutating_policy),
    ("MutatingAdmissionPolicyBinding.admissionregistration.k8s.io", "Name=name, PolicyName, ParamRef, Age", policy::policy_binding),
    ("FlowSchema.flowcontrol.apiserver.k8s.io", "Name=name, PriorityLevel, MatchingPrecedence, DistinguisherMethod, Age, MissingPL", cluster::flow_schema),
    ("PriorityLevelConfiguration.flowcontrol.apiserver.k8s.io", "Name=name, Type, NominalConcurrencyShares, Queues, HandSize, QueueLengthLimit, Age", cluster::priority_level),
    ("StorageVersion.internal.apiserver.k8s.io", "Name=name, CommonEncodingVersion, StorageVersions, Age", cluster::storage_version),
    ("Scale.autoscaling", "Name, Desired:integer, Available:integer, Age", workloads::scale),
    ("DeviceClass.resource.k8s.io", "Name=name, Age", cluster::name_and_age),
    ("ResourceClaim.resource.k8s.io", "Name=name, State, Age", cluster::resource_claim),
    ("ResourceClaimTemplate.resource.k8s.io", "Name=name, Age", cluster::name_and_age),
    ("ResourceSlice.resource.k8s.io", "Name=name, Node, Driver, Pool, Age", cluster::resource_slice),
    ("DeviceTaintRule.resource.k8s.io", "Name=name, Key, Value, Effect, TimeAdded, Age", cluster::device_taint_rule),
    ("ServiceCIDR.networking.k8s.io", "Name=name, CIDRs, Age", network::service_cidr),
    ("IPAddress.networking.k8s.io", "Name=name, ParentRef", network::ip_address),
    ("StorageVersionMigration.storagemigration.k8s.io", "Name, Resource", cluster::storage_version_migration),
];
