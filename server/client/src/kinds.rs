//! The typed kinds that are asked for, and how they are read and written.
//!
//! The code that reads a pod is 100 KB, and as a generic function it would be compiled in every crate that reads pods, and
//! again for every way to read them. So it is compiled here, once for each kind: a kind that is needed is added to the list.
//! Only pods read themselves: [`crate::Pod`].

use coracle_api::Object;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Event, Namespace, Node, ReplicationController, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};

use serde::de::Error as _;

use crate::resource::PartialObjectMetadata;

/// What requests and watches carry.
pub trait Wire: Sized {
    fn decode(json: &str) -> serde_json::Result<Self>;
    fn encode(&self) -> serde_json::Result<Vec<u8>>;

    /// Read once as text, so that no string in it has to be looked at again.
    fn decode_bytes(json: &[u8]) -> serde_json::Result<Self> {
        Self::decode(text(json)?)
    }
}

/// Bytes that ought to be JSON.
pub(crate) fn text(json: &[u8]) -> serde_json::Result<&str> {
    std::str::from_utf8(json).map_err(serde_json::Error::custom)
}

macro_rules! wire {
    ($($kind:ty),* $(,)?) => {
        $(impl Wire for $kind {
            fn decode(json: &str) -> serde_json::Result<Self> {
                serde_json::from_str(json)
            }

            fn encode(&self) -> serde_json::Result<Vec<u8>> {
                serde_json::to_vec(self)
            }
        })*
    };
}

wire! {
    ClusterRole, ClusterRoleBinding, ConfigMap, Deployment, EndpointSlice, Endpoints, Event, Lease, Namespace, Node,
    Object, PartialObjectMetadata, PodDisruptionBudget, ReplicaSet, ReplicationController, Role, RoleBinding,
    RuntimeClass, Secret, Service, ServiceAccount, StatefulSet,
}
