//! Takes the texts that `kubectl explain` shows out of k8s-openapi, which carries them as JSON schemas of its types, and
//! packs them into one file. Linked in as code, those schemas would be several megabytes of the server.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions;
use k8s_openapi::apimachinery::pkg::apis::meta;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration;
use k8s_openapi::schemars::{JsonSchema, SchemaGenerator};
use serde_json::Value;

/// What stands between two types, and between the texts of one: name, text, then field and text in turn.
const RECORD: char = '\u{1e}';
const UNIT: char = '\u{1f}';

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    let mut texts = BTreeMap::new();
    take_all(&mut texts);
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::best());
    for (name, description) in &texts {
        write!(packed, "{name}{UNIT}{description}{RECORD}")?;
    }
    let to = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("no OUT_DIR")?).join("descriptions.z");
    std::fs::write(to, packed.finish()?)?;
    Ok(())
}

type Texts = BTreeMap<String, String>;

fn take<T: JsonSchema>(texts: &mut Texts) {
    let mut generator = SchemaGenerator::default();
    let own = generator.root_schema_for::<T>();
    keep(texts, &T::schema_name(), own.into());
    for (name, schema) in generator.take_definitions(false) {
        keep(texts, &name, schema);
    }
}

fn keep(texts: &mut Texts, name: &str, schema: Value) {
    let text = |schema: &Value| schema["description"].as_str().unwrap_or_default().to_owned();
    let mut all = text(&schema);
    for (field, property) in schema["properties"].as_object().into_iter().flatten() {
        all.push(UNIT);
        all.push_str(field);
        all.push(UNIT);
        all.push_str(&text(property));
    }
    texts.insert(name.to_owned(), all);
}

macro_rules! kinds {
    ($($kind:path),* $(,)?) => {
        fn take_all(texts: &mut Texts) {
            $(take::<$kind>(texts);)*
        }
    };
}

mod api {
    pub(super) use k8s_openapi::api::*;
}

kinds! {
    meta::v1::Status, meta::v1::DeleteOptions, meta::v1::Patch,
    api::core::v1::ComponentStatus, api::core::v1::ConfigMap, api::core::v1::Endpoints, api::core::v1::Event,
    api::core::v1::LimitRange, api::core::v1::Namespace, api::core::v1::Node, api::core::v1::PersistentVolume,
    api::core::v1::PersistentVolumeClaim, api::core::v1::Pod, api::core::v1::PodTemplate,
    api::core::v1::ReplicationController, api::core::v1::ResourceQuota, api::core::v1::Secret,
    api::core::v1::Service, api::core::v1::ServiceAccount, api::core::v1::Binding, api::policy::v1::Eviction,
    api::autoscaling::v1::Scale, api::authentication::v1::TokenRequest,
    api::admissionregistration::v1::MutatingAdmissionPolicy,
    api::admissionregistration::v1::MutatingAdmissionPolicyBinding,
    api::admissionregistration::v1::MutatingWebhookConfiguration,
    api::admissionregistration::v1::ValidatingAdmissionPolicy,
    api::admissionregistration::v1::ValidatingAdmissionPolicyBinding,
    api::admissionregistration::v1::ValidatingWebhookConfiguration, apiextensions::v1::CustomResourceDefinition,
    apiregistration::v1::APIService, api::apps::v1::ControllerRevision, api::apps::v1::DaemonSet,
    api::apps::v1::Deployment, api::apps::v1::ReplicaSet, api::apps::v1::StatefulSet,
    api::authentication::v1::SelfSubjectReview, api::authentication::v1::TokenReview,
    api::authorization::v1::LocalSubjectAccessReview, api::authorization::v1::SelfSubjectAccessReview,
    api::authorization::v1::SelfSubjectRulesReview, api::authorization::v1::SubjectAccessReview,
    api::autoscaling::v1::HorizontalPodAutoscaler, api::autoscaling::v2::HorizontalPodAutoscaler,
    api::batch::v1::CronJob, api::batch::v1::Job, api::certificates::v1::CertificateSigningRequest,
    api::coordination::v1::Lease, api::discovery::v1::EndpointSlice, api::events::v1::Event,
    api::flowcontrol::v1::FlowSchema, api::flowcontrol::v1::PriorityLevelConfiguration,
    api::networking::v1::IPAddress, api::networking::v1::Ingress, api::networking::v1::IngressClass,
    api::networking::v1::NetworkPolicy, api::networking::v1::ServiceCIDR, api::node::v1::RuntimeClass,
    api::policy::v1::PodDisruptionBudget, api::rbac::v1::ClusterRole, api::rbac::v1::ClusterRoleBinding,
    api::rbac::v1::Role, api::rbac::v1::RoleBinding, api::resource::v1::DeviceClass,
    api::resource::v1::ResourceClaim, api::resource::v1::ResourceClaimTemplate, api::resource::v1::ResourceSlice,
    api::scheduling::v1::PriorityClass, api::storage::v1::CSIDriver, api::storage::v1::CSINode,
    api::storage::v1::CSIStorageCapacity, api::storage::v1::StorageClass, api::storage::v1::VolumeAttachment,
    api::storage::v1::VolumeAttributesClass,
}
