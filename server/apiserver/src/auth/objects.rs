//! Owns the look into stored objects that deciding who may do what needs. Behind a trait, so that decisions are tested
//! on plain maps.

use bytes::Bytes;
use coracle_store::{Key, Prefix, Store};

/// Stored objects, as of now. `resource` is the plural and group: `pods`, `clusterroles.rbac.authorization.k8s.io`.
pub trait Objects: Send + Sync {
    /// The uid of an object, if it exists.
    fn uid(&self, resource: &str, namespace: &str, name: &str) -> Option<String>;

    /// An object as JSON, if it exists.
    fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Bytes>;

    /// All objects of a resource, of all namespaces, as namespace and JSON.
    fn all(&self, resource: &str) -> Vec<(String, Bytes)>;

    /// A value that differs whenever an object of the resource was made, changed or removed. Asked on every request.
    fn version(&self, resource: &str) -> u64;

    /// Pods of a namespace that are bound to `node`, as JSON, until `found` says so.
    fn any_pod_on_node(&self, namespace: &str, node: &str, found: &mut dyn FnMut(&[u8]) -> bool) -> bool;
}

/// The store's current snapshot.
#[derive(Clone)]
pub struct StoredObjects {
    store: Store,
}

impl StoredObjects {
    pub fn new(store: Store) -> Self {
        StoredObjects { store }
    }
}

impl Objects for StoredObjects {
    fn uid(&self, resource: &str, namespace: &str, name: &str) -> Option<String> {
        let entry = self.store.snapshot().get(&Key::new(resource, namespace, name))?.clone();
        Some(entry.uid.as_str().to_owned())
    }

    fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Bytes> {
        Some(self.store.snapshot().get(&Key::new(resource, namespace, name))?.json.clone())
    }

    fn all(&self, resource: &str) -> Vec<(String, Bytes)> {
        let snapshot = self.store.snapshot();
        let entries = snapshot.range(&Prefix::resource(resource), None);
        entries.map(|entry| (entry.key.namespace.to_string(), entry.json.clone())).collect()
    }

    fn version(&self, resource: &str) -> u64 {
        self.store.changes(resource)
    }

    fn any_pod_on_node(&self, namespace: &str, node: &str, found: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        let snapshot = self.store.snapshot();
        let pods = snapshot.range(&Prefix::namespaced("pods", namespace), None);
        pods.into_iter().any(|pod| pod.field("spec.nodeName") == Some(node) && found(&pod.json))
    }
}
