//! Which resource a request is for, and what the typed parts of this crate need to know of a kind.

use std::{any::TypeId, fmt::Debug, sync::Arc};

use coracle_api::meta::{GroupResource, ObjectKey, api_version};
use k8s_openapi::{Metadata, NamespaceResourceScope, Resource, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use serde::{Deserialize, Serialize};

use crate::{Error, kinds::Wire};

/// A typed kind of k8s-openapi.
pub trait Kind: Resource + Metadata<Ty = ObjectMeta> + Wire + Clone + Debug + Send + Sync + 'static {}

impl<K> Kind for K where K: Resource + Metadata<Ty = ObjectMeta> + Wire + Clone + Debug + Send + Sync + 'static {}

/// Whether objects of this kind live in namespaces.
pub fn is_namespaced<K: Kind>() -> bool {
    TypeId::of::<K::Scope>() == TypeId::of::<NamespaceResourceScope>()
}

/// A served resource: the coordinates of its URLs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceRef {
    /// "" is the core group.
    pub group: Arc<str>,
    pub version: Arc<str>,
    pub plural: Arc<str>,
    pub kind: Arc<str>,
    pub namespaced: bool,
}

impl ResourceRef {
    pub fn new(group: &str, version: &str, plural: &str, kind: &str, namespaced: bool) -> Self {
        Self { group: group.into(), version: version.into(), plural: plural.into(), kind: kind.into(), namespaced }
    }

    /// The resource of a typed kind.
    pub fn of<K: Kind>() -> Self {
        Self::new(K::GROUP, K::VERSION, K::URL_PATH_SEGMENT, K::KIND, is_namespaced::<K>())
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    pub fn group_resource(&self) -> GroupResource {
        GroupResource { group: self.group.clone(), resource: self.plural.clone() }
    }

    /// `/apis/apps/v1/namespaces/default/deployments/web/status`; no namespace: all of them, or cluster-scoped.
    pub(crate) fn path(&self, namespace: Option<&str>, name: Option<&str>, sub: Option<&str>) -> Result<String, Error> {
        let mut path = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        let fixed = [Some(&*self.plural), name, sub];
        let scope = namespace.into_iter().flat_map(|namespace| ["namespaces", namespace]);
        for part in scope.chain(fixed.into_iter().flatten()) {
            // Upstream's rule for a path segment. Names cannot contain more than unreserved characters and ':'.
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~:@!$&'()*+,;=".contains(&b);
            if part.is_empty() || part == "." || part == ".." || !part.bytes().all(plain) {
                return Err(Error::Request(format!("{part:?} cannot be part of a path under {path}")));
            }
            path.push('/');
            path.push_str(part);
        }
        Ok(path)
    }
}

/// Only the metadata of an object, of whatever kind.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartialObjectMetadata {
    #[serde(default)]
    pub api_version: String,
    #[serde(default)]
    pub kind: String,
    #[serde(default)]
    pub metadata: ObjectMeta,
}

impl PartialObjectMetadata {
    pub fn key(&self) -> ObjectKey {
        key_of(&self.metadata)
    }
}

/// Objects an informer can hold.
pub trait Cached: Wire + Send + Sync + 'static {
    fn meta(&self) -> &ObjectMeta;
    fn meta_mut(&mut self) -> &mut ObjectMeta;

    fn key(&self) -> ObjectKey {
        key_of(self.meta())
    }

    /// Drops what no reader of a cache needs. Who manages which field is often half of an object's size.
    fn trim(&mut self) {
        self.meta_mut().managed_fields = None;
    }
}

impl<K: Kind> Cached for K {
    /// Decoding leaves lists with room for several elements more, which in a pod's are kilobytes. A copy has no such room.
    fn trim(&mut self) {
        self.metadata_mut().managed_fields = None;
        *self = self.clone();
    }

    fn meta(&self) -> &ObjectMeta {
        self.metadata()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.metadata_mut()
    }
}

impl Cached for PartialObjectMetadata {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }

    /// Held for every object there is: annotations may carry a whole manifest.
    fn trim(&mut self) {
        self.metadata.managed_fields = None;
        self.metadata.annotations = None;
    }
}

/// Namespace ("" for cluster-scoped) and name.
pub fn key_of(meta: &ObjectMeta) -> ObjectKey {
    ObjectKey::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pod;

    #[test]
    fn what_a_cache_holds_has_no_room_to_spare() {
        let text = serde_json::json!({
            "metadata": {"name": "p", "managedFields": [{"manager": "m"}], "ownerReferences": [
                {"apiVersion": "v1", "kind": "K", "name": "o", "uid": "u"},
            ]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}], "podIPs": [{"ip": "127.42.0.3"}]},
        })
        .to_string();
        let room = |pod: &Pod| {
            let status = pod.status.as_ref().unwrap();
            let (conditions, ips) = (status.conditions.as_ref().unwrap(), status.pod_ips.as_ref().unwrap());
            let owners = pod.metadata.owner_references.as_ref().unwrap();
            conditions.capacity() + ips.capacity() + owners.capacity()
        };
        let mut pod: Pod = serde_json::from_str(&text).unwrap();
        assert!(room(&pod) > 3, "decoding leaves some");
        pod.trim();
        assert_eq!((room(&pod), pod.metadata.managed_fields), (3, None));
    }
}
