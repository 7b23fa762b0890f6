//! Read your own writes: what a controller wrote, laid over a cache that may not show it yet. Without it a controller
//! that is quicker than its watch would make a thing twice.
//!
//! An entry lasts until the cache has caught up with it, which the revisions say. Knows no kind.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coracle_api::meta::{ObjectKey, Revision};
use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::owner;

pub(crate) fn revision(meta: &ObjectMeta) -> Revision {
    meta.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(Revision(0))
}

pub(crate) struct Overlay<K> {
    written: BTreeMap<ObjectKey, Arc<K>>,
    /// UIDs of what was removed.
    removed: BTreeSet<String>,
}

impl<K> Default for Overlay<K> {
    fn default() -> Self {
        Self { written: BTreeMap::new(), removed: BTreeSet::new() }
    }
}

impl<K: Metadata<Ty = ObjectMeta>> Overlay<K> {
    /// Notes the server's answer to a create or an update.
    pub(crate) fn wrote(&mut self, object: K) -> Arc<K> {
        let object = Arc::new(object);
        self.written.insert(owner::key_of(object.metadata()), object.clone());
        object
    }

    /// Notes that the object with this UID is gone for good.
    pub(crate) fn removed(&mut self, object: &ObjectMeta) {
        self.written.retain(|_, o| owner::uid(o.metadata()) != owner::uid(object));
        self.removed.insert(owner::uid(object).to_owned());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.written.is_empty() && self.removed.is_empty()
    }

    /// The objects as they are known to be: `cached` is all that the cache shows of this overlay's domain as of `seen`.
    /// Sorted by key.
    pub(crate) fn over(&mut self, cached: Vec<Arc<K>>, seen: Revision) -> Vec<Arc<K>> {
        let mut view: BTreeMap<ObjectKey, Arc<K>> =
            cached.into_iter().map(|object| (owner::key_of(object.metadata()), object)).collect();
        self.written.retain(|key, object| {
            let written = revision(object.metadata());
            let known = view.get(key).map_or(seen, |cached| revision(cached.metadata()).max(seen));
            known < written
        });
        let cached: BTreeSet<&str> = view.values().map(|o| owner::uid(o.metadata())).collect();
        self.removed.retain(|uid| cached.contains(uid.as_str()));
        view.extend(self.written.iter().map(|(key, object)| (key.clone(), object.clone())));
        view.retain(|_, object| !self.removed.contains(owner::uid(object.metadata())));
        view.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::lines;
    use coracle_client::Pod;
    use expect_test::{Expect, expect};

    fn pods(text: &str) -> Vec<Arc<Pod>> {
        lines(text).iter().map(|l| Arc::new(l.pod())).collect()
    }

    fn check_view(overlay: &mut Overlay<Pod>, cached: &str, seen: u64, expected: Expect) {
        let view = overlay.over(pods(cached), Revision(seen));
        let show = |p: &Arc<Pod>| format!("{}@{}", owner::name(&p.metadata), revision(&p.metadata));
        let left = if overlay.is_empty() { "settled" } else { "open" };
        expected.assert_eq(&format!("{} ({left})", view.iter().map(show).collect::<Vec<_>>().join(" ")));
    }

    #[test]
    fn own_writes_are_seen_until_the_cache_has_caught_up() {
        let mut overlay = Overlay::default();
        for pod in pods("pod a rv=5; pod b rv=6") {
            overlay.wrote((*pod).clone());
        }
        check_view(&mut overlay, "pod a rv=3; pod c rv=4", 4, expect!["a@5 b@6 c@4 (open)"]);
        check_view(&mut overlay, "pod a rv=5; pod c rv=4", 5, expect!["a@5 b@6 c@4 (open)"]);
        // Seen past it and not there: someone has removed it meanwhile.
        check_view(&mut overlay, "pod a rv=5; pod c rv=4", 7, expect!["a@5 c@4 (settled)"]);
    }

    #[test]
    fn own_removals_are_seen_too() {
        let mut overlay = Overlay::default();
        overlay.removed(&pods("pod a uid=1")[0].metadata);
        check_view(&mut overlay, "pod a uid=1 rv=3", 3, expect![" (open)"]);
        check_view(&mut overlay, "pod a uid=2 rv=9", 9, expect!["a@9 (settled)"]);
    }
}
