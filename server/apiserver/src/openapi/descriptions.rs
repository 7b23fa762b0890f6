//! Owns the texts that `kubectl explain` shows. They are k8s-openapi's, which carries them as JSON schemas of its types:
//! asked for when a document is made, and dropped with it, so that an idle server holds none of them.

use std::collections::HashMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::Value;

/// The description of a type and of its fields.
#[derive(Default)]
pub(super) struct Description {
    pub(super) text: String,
    pub(super) fields: HashMap<String, String>,
}

/// By the type's name in OpenAPI.
#[derive(Default)]
pub(super) struct Descriptions {
    types: HashMap<String, Description>,
}

impl Descriptions {
    /// Of all types that the kinds of a group version use.
    pub(super) fn add(&mut self, group: &str, version: &str) {
        add_kinds(group, version, self);
        self.take::<meta::Status>();
        self.take::<meta::DeleteOptions>();
        self.take::<meta::Patch>();
    }

    pub(super) fn get(&self, name: &str) -> Option<&Description> {
        self.types.get(name)
    }

    fn take<T: JsonSchema>(&mut self) {
        // One generator for each kind: what it holds is many times what is kept of it.
        let mut generator = SchemaGenerator::default();
        let own = generator.root_schema_for::<T>();
        self.keep(&T::schema_name(), own);
        for (name, schema) in generator.take_definitions(false) {
            if let Ok(schema) = Schema::try_from(schema) {
                self.keep(&name, schema);
            }
        }
    }

    fn keep(&mut self, name: &str, schema: Schema) {
        if self.types.contains_key(name) {
            return;
        }
        let Value::Object(mut schema) = Value::from(schema) else { return };
        let mut description = Description { text: text(&mut schema), fields: HashMap::new() };
        if let Some(Value::Object(properties)) = schema.remove("properties") {
            for (field, property) in properties {
                if let Value::Object(mut property) = property {
                    description.fields.insert(field, text(&mut property));
                }
            }
        }
        self.types.insert(name.to_owned(), description);
    }
}

fn text(schema: &mut serde_json::Map<String, Value>) -> String {
    match schema.remove("description") {
        Some(Value::String(text)) => text,
        Some(_) | None => String::new(),
    }
}

macro_rules! kinds {
    ($($group:literal $version:literal { $($kind:path),* $(,)? })*) => {
        fn add_kinds(group: &str, version: &str, to: &mut Descriptions) {
            match (group, version) {
                $(($group, $version) => {
                    $(to.take::<$kind>();)*
                })*
                _not_of_k8s_openapi => {}
            }
        }

        #[cfg(test)]
        pub(super) const GROUP_VERSIONS: &[(&str, &str)] = &[$(($group, $version)),*];
    };
}

mod api {
    pub(super) use k8s_openapi::api::*;
    pub(super) use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions;
    pub(super) use k8s_openapi::kube_aggregator::pkg::apis::apiregistration;
}

kinds! {
    "" "v1" {
        api::core::v1::ComponentStatus, api::core::v1::ConfigMap, api::core::v1::Endpoints, api::core::v1::Event,
        api::core::v1::LimitRange, api::core::v1::Namespace, api::core::v1::Node, api::core::v1::PersistentVolume,
        api::core::v1::PersistentVolumeClaim, api::core::v1::Pod, api::core::v1::PodTemplate,
        api::core::v1::ReplicationController, api::core::v1::ResourceQuota, api::core::v1::Secret,
        api::core::v1::Service, api::core::v1::ServiceAccount,
            api::core::v1::Binding, api::policy::v1::Eviction, api::autoscaling::v1::Scale,
        api::authentication::v1::TokenRequest,
    }
    "admissionregistration.k8s.io" "v1" {
        api::admissionregistration::v1::MutatingAdmissionPolicy,
        api::admissionregistration::v1::MutatingAdmissionPolicyBinding,
        api::admissionregistration::v1::MutatingWebhookConfiguration,
        api::admissionregistration::v1::ValidatingAdmissionPolicy,
        api::admissionregistration::v1::ValidatingAdmissionPolicyBinding,
        api::admissionregistration::v1::ValidatingWebhookConfiguration,
    }
    "apiextensions.k8s.io" "v1" { api::apiextensions::v1::CustomResourceDefinition }
    "apiregistration.k8s.io" "v1" { api::apiregistration::v1::APIService }
    "apps" "v1" {
        api::apps::v1::ControllerRevision, api::apps::v1::DaemonSet, api::apps::v1::Deployment,
        api::apps::v1::ReplicaSet, api::apps::v1::StatefulSet,
            api::autoscaling::v1::Scale
    }
    "authentication.k8s.io" "v1" {        api::authentication::v1::SelfSubjectReview, api::authentication::v1::TokenReview,
    }
    "authorization.k8s.io" "v1" {        api::authorization::v1::LocalSubjectAccessReview, api::authorization::v1::SelfSubjectAccessReview,
        api::authorization::v1::SelfSubjectRulesReview, api::authorization::v1::SubjectAccessReview,
    }
    "autoscaling" "v1" { api::autoscaling::v1::HorizontalPodAutoscaler }
    "autoscaling" "v2" { api::autoscaling::v2::HorizontalPodAutoscaler }
    "batch" "v1" { api::batch::v1::CronJob, api::batch::v1::Job }
    "certificates.k8s.io" "v1" { api::certificates::v1::CertificateSigningRequest }
    "coordination.k8s.io" "v1" { api::coordination::v1::Lease }
    "discovery.k8s.io" "v1" { api::discovery::v1::EndpointSlice }
    "events.k8s.io" "v1" { api::events::v1::Event }
    "flowcontrol.apiserver.k8s.io" "v1" {
        api::flowcontrol::v1::FlowSchema, api::flowcontrol::v1::PriorityLevelConfiguration,
    }
    "networking.k8s.io" "v1" {
        api::networking::v1::IPAddress, api::networking::v1::Ingress, api::networking::v1::IngressClass,
        api::networking::v1::NetworkPolicy, api::networking::v1::ServiceCIDR,
    }
    "node.k8s.io" "v1" { api::node::v1::RuntimeClass }
    "policy" "v1" { api::policy::v1::PodDisruptionBudget }
    "rbac.authorization.k8s.io" "v1" {
        api::rbac::v1::ClusterRole, api::rbac::v1::ClusterRoleBinding, api::rbac::v1::Role, api::rbac::v1::RoleBinding,
    }
    "resource.k8s.io" "v1" {
        api::resource::v1::DeviceClass, api::resource::v1::ResourceClaim, api::resource::v1::ResourceClaimTemplate,
        api::resource::v1::ResourceSlice,
    }
    "scheduling.k8s.io" "v1" { api::scheduling::v1::PriorityClass }
    "storage.k8s.io" "v1" {
        api::storage::v1::CSIDriver, api::storage::v1::CSINode, api::storage::v1::CSIStorageCapacity,
        api::storage::v1::StorageClass, api::storage::v1::VolumeAttachment, api::storage::v1::VolumeAttributesClass,
    }
}
