//! What the scheduler knows of the cluster: nodes with the pods on them. Kept up by events, one at a time; pods whose
//! binding is under way are assumed to be where they are going until they are seen there.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use coracle_api::meta::{NodeName, PodKey};
use k8s_openapi::api::core::v1::Node;

use crate::info::{NodeInfo, PodInfo};

#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    nodes: Vec<NodeInfo>,
    index: BTreeMap<NodeName, usize>,
    /// Where each pod that takes room is. Its node may be unknown (yet, or no more).
    places: HashMap<PodKey, NodeName>,
    /// Pods on nodes that are not known.
    homeless: BTreeMap<NodeName, BTreeMap<PodKey, Arc<PodInfo>>>,
    assumed: HashMap<PodKey, Arc<str>>,
    /// On how many nodes an image lies.
    images: HashMap<Arc<str>, usize>,
    /// Pods that wait for room which is being made for them, by node.
    nominated: BTreeMap<NodeName, BTreeMap<PodKey, Arc<PodInfo>>>,
}

impl Snapshot {
    pub fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.index.get(name).map(|at| &self.nodes[*at])
    }

    pub fn nodes_with_image(&self, image: &str) -> usize {
        self.images.get(image).copied().unwrap_or(0)
    }

    /// Takes in a node that is new or has changed; returns it as it was.
    pub fn set_node(&mut self, node: Arc<Node>) -> Option<Arc<Node>> {
        let name = NodeName::from(node.metadata.name.as_deref().unwrap_or_default());
        if let Some(at) = self.index.get(&name) {
            let before = self.nodes[*at].replace(node);
            count_images(&mut self.images, before.images.keys(), false);
            count_images(&mut self.images, self.nodes[*at].images.keys(), true);
            return Some(before.node);
        }
        let mut info = NodeInfo::new(node);
        for pod in self.homeless.remove(&name).unwrap_or_default().into_values() {
            info.add(pod);
        }
        count_images(&mut self.images, info.images.keys(), true);
        self.index.insert(name, self.nodes.len());
        self.nodes.push(info);
        None
    }

    pub fn remove_node(&mut self, name: &str) {
        let Some(at) = self.index.remove(name) else { return };
        let gone = self.nodes.swap_remove(at);
        if let Some(moved) = self.nodes.get(at) {
            self.index.insert(moved.name.clone(), at);
        }
        count_images(&mut self.images, gone.images.keys(), false);
        // Its pods are still in the API: they are there again if the node comes back.
        if !gone.pods.is_empty() {
            self.homeless.insert(gone.name, gone.pods);
        }
    }

    /// The pod is on this node, as the API says.
    pub fn set_pod(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.assumed.remove(&pod.key);
        self.place(pod, node);
    }

    /// The pod shall be bound to this node.
    pub fn assume(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.assumed.insert(pod.key.clone(), pod.uid.clone());
        self.place(pod, node);
    }

    /// The binding failed. Does nothing when the pod has been seen bound, or is another of the same name by now.
    pub fn forget(&mut self, key: &PodKey, uid: &str) -> Option<Arc<PodInfo>> {
        match self.assumed.get(key) {
            Some(assumed) if **assumed == *uid => self.remove_pod(key),
            Some(_) | None => None,
        }
    }

    pub fn is_assumed(&self, key: &PodKey, uid: &str) -> bool {
        self.assumed.get(key).is_some_and(|assumed| **assumed == *uid)
    }

    pub fn assumed_count(&self) -> usize {
        self.assumed.len()
    }

    fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        let name = NodeName::from(node);
        if self.places.get(&pod.key).is_some_and(|place| *place != name) {
            self.unplace(&pod.key);
        }
        self.places.insert(pod.key.clone(), name.clone());
        match self.index.get(&name) {
            Some(at) => self.nodes[*at].add(pod),
            None => {
                self.homeless.entry(name).or_default().insert(pod.key.clone(), pod);
            }
        }
    }

    /// The pod takes no room any more.
    pub fn remove_pod(&mut self, key: &PodKey) -> Option<Arc<PodInfo>> {
        self.assumed.remove(key);
        self.unplace(key)
    }

    fn unplace(&mut self, key: &PodKey) -> Option<Arc<PodInfo>> {
        let name = self.places.remove(key)?;
        if let Some(at) = self.index.get(&name) {
            return self.nodes[*at].remove(key);
        }
        let pods = self.homeless.get_mut(&name)?;
        let pod = pods.remove(key);
        if pods.is_empty() {
            self.homeless.remove(&name);
        }
        pod
    }

    /// The pod on its node, if it is known.
    pub fn pod(&self, key: &PodKey) -> Option<(&NodeName, Option<&Arc<PodInfo>>)> {
        let name = self.places.get(key)?;
        Some((name, self.node(name).and_then(|node| node.pods.get(key))))
    }

    /// Keeps room on the node for a pod whose victims are on their way out.
    pub fn nominate(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.withdraw(&pod.key);
        self.nominated.entry(NodeName::from(node)).or_default().insert(pod.key.clone(), pod);
    }

    pub fn withdraw(&mut self, key: &PodKey) {
        self.nominated.retain(|_, pods| {
            pods.remove(key);
            !pods.is_empty()
        });
    }

    /// The pods nominated to this node.
    pub fn nominated(&self, node: &str) -> impl Iterator<Item = &Arc<PodInfo>> {
        self.nominated.get(node).into_iter().flat_map(BTreeMap::values)
    }

    pub(crate) fn node_names(&self) -> Vec<NodeName> {
        self.index.keys().cloned().collect()
    }

    pub(crate) fn pod_keys(&self) -> Vec<PodKey> {
        self.places.keys().cloned().collect()
    }
}

fn count_images<'a>(counts: &mut HashMap<Arc<str>, usize>, names: impl Iterator<Item = &'a Arc<str>>, present: bool) {
    for name in names {
        if present {
            *counts.entry(name.clone()).or_insert(0) += 1;
        } else if let Some(count) = counts.get_mut(name) {
            *count -= 1;
            if *count == 0 {
                counts.remove(name);
            }
        }
    }
}
