//! What was asked of the API for one owner that its cache does not show yet. The place of upstream's expectations, but
//! exact: an entry names its pod and is settled by what the cache shows, so nothing expires and nothing is made twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coracle_api::meta::Revision;
use coracle_client::Pod;

use crate::overlay::revision;
use crate::owner;

#[derive(Default)]
pub(crate) struct Outstanding {
    /// Names under which a pod was sent and no answer came: it may or may not exist.
    unanswered: BTreeSet<String>,
    /// By UID.
    created: BTreeMap<String, Arc<Pod>>,
    /// Pods whose deletion was asked for, by UID.
    deleting: BTreeMap<String, Deletion>,
}

struct Deletion {
    pod: Arc<Pod>,
    answered: bool,
}

impl Outstanding {
    pub(crate) fn unanswered(&self) -> impl Iterator<Item = &String> {
        self.unanswered.iter()
    }

    /// Pods that exist and that the cache has not shown yet.
    pub(crate) fn created(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.created.values()
    }

    pub(crate) fn is_deleting(&self, uid: &str) -> bool {
        self.deleting.contains_key(uid)
    }

    /// A create of that name is about to be sent.
    pub(crate) fn creating(&mut self, name: &str) {
        self.unanswered.insert(name.to_owned());
    }

    /// The create was answered: with a pod, or with the certainty that there is none.
    pub(crate) fn answered(&mut self, name: &str, pod: Option<Pod>) {
        self.unanswered.remove(name);
        if let Some(pod) = pod {
            self.created.insert(owner::uid(&pod.metadata).to_owned(), Arc::new(pod));
        }
    }

    /// A delete of that pod is about to be sent. It stays counted as going even when no answer comes: asking again for
    /// the same pod does no harm, choosing another one does.
    pub(crate) fn deleting(&mut self, pod: &Arc<Pod>) {
        let deletion = Deletion { pod: pod.clone(), answered: false };
        self.deleting.insert(owner::uid(&pod.metadata).to_owned(), deletion);
    }

    /// The delete was accepted.
    pub(crate) fn deleted(&mut self, uid: &str) {
        if let Some(deletion) = self.deleting.get_mut(uid) {
            deletion.answered = true;
        }
    }

    /// The delete was refused.
    pub(crate) fn kept(&mut self, uid: &str) {
        self.deleting.remove(uid);
    }

    /// Pods whose deletion was sent and not answered.
    pub(crate) fn unsure_deletions(&self) -> Vec<Arc<Pod>> {
        self.deleting.values().filter(|d| !d.answered).map(|d| d.pod.clone()).collect()
    }

    /// Forgets what the cache shows: `pods` are those it holds under this owner, as of `seen`.
    pub(crate) fn settle(&mut self, pods: &[Arc<Pod>], seen: Revision) {
        let cached: BTreeMap<&str, &Pod> = pods.iter().map(|p| (owner::uid(&p.metadata), &**p)).collect();
        self.created.retain(|uid, pod| !cached.contains_key(uid.as_str()) && seen < revision(&pod.metadata));
        let created = &self.created;
        self.deleting.retain(|uid, _| match cached.get(uid.as_str()) {
            Some(pod) => pod.metadata.deletion_timestamp.is_none(),
            None => created.contains_key(uid),
        });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.unanswered.is_empty() && self.created.is_empty() && self.deleting.is_empty()
    }
}
