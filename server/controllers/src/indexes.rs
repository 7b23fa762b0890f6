//! Indexes that several controllers share: an index of one name is made once for all of them.

use coracle_client::{Index, Informers, Pod};

use crate::{owner, pod};

/// Pods by the UID of their controller; those without one by [`orphans_of`] their namespace.
pub(crate) fn pods_by_controller(informers: &Informers) -> Index<Pod> {
    informers.get::<Pod>().index("controller", |pod| {
        let meta = &pod.metadata;
        vec![owner::controller_of(meta).map_or_else(|| orphans_of(owner::namespace(meta)), |r| r.uid.clone())]
    })
}

/// The value under which an index by controller keeps what has none.
pub(crate) fn orphans_of(namespace: &str) -> String {
    format!("/{namespace}")
}

/// Pods by the node they are bound to.
pub(crate) fn pods_by_node(informers: &Informers) -> Index<Pod> {
    informers.get::<Pod>().index("node", |pod| pod::node_name(pod).map(str::to_owned).into_iter().collect())
}
