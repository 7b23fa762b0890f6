//! Decoded objects that several informers of one process hold: the control plane, the node agent in it and whoever else
//! follow the same pods, and each of them would otherwise have a copy of its own. Knows no kind, and keeps nothing alive.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Arc, Weak};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;

use crate::resource::Cached;

/// Entries of objects that are gone are looked for when there are as many more.
const SLACK: usize = 256;

/// What is shared. Cheap to clone; give it to all informers of a process.
#[derive(Clone, Default)]
pub struct Shared(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    /// By type and UID; only the newest revision that anybody decoded. A weak reference holds on to the memory of what it
    /// referred to, so those of earlier revisions must not stay.
    objects: HashMap<(TypeId, u128), (u64, Weak<dyn Any + Send + Sync>)>,
    sweep_at: usize,
}

impl Shared {
    /// The object as another informer has it already, or this one. Both were cut down by the same rules, and an object of
    /// one UID and revision is the same for everyone.
    pub(crate) fn share<T: Cached>(&self, object: T) -> Arc<T> {
        let Some((uid, revision)) = identity(object.meta()) else { return Arc::new(object) };
        let mut known = self.0.lock();
        let slot = (TypeId::of::<T>(), uid);
        if let Some((of, found)) = known.objects.get(&slot)
            && *of == revision
            && let Some(found) = found.upgrade()
        {
            return found.downcast::<T>().expect("the key holds the type");
        }
        let object = Arc::new(object);
        let any: Arc<dyn Any + Send + Sync> = object.clone();
        let newer = known.objects.get(&slot).is_none_or(|(of, found)| *of < revision || found.strong_count() == 0);
        if newer {
            known.objects.insert(slot, (revision, Arc::downgrade(&any)));
            known.sweep();
        }
        object
    }
}

impl Known {
    fn sweep(&mut self) {
        if self.objects.len() < self.sweep_at.max(SLACK) {
            return;
        }
        self.objects.retain(|_, (_, object)| object.strong_count() > 0);
        self.sweep_at = self.objects.len() + SLACK;
    }
}

fn identity(meta: &ObjectMeta) -> Option<(u128, u64)> {
    let digits: String = meta.uid.as_deref()?.chars().filter(|c| *c != '-').collect();
    let uid = u128::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 32)?;
    Some((uid, meta.resource_version.as_deref()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMap, Secret};

    use super::*;

    fn meta(uid: u32, revision: &str) -> ObjectMeta {
        ObjectMeta {
            uid: Some(format!("{uid:08x}-0000-4000-8000-000000000001")),
            resource_version: Some(revision.to_owned()),
            ..ObjectMeta::default()
        }
    }

    fn map(uid: u32, revision: &str) -> ConfigMap {
        ConfigMap { metadata: meta(uid, revision), ..ConfigMap::default() }
    }

    #[test]
    fn one_revision_of_one_object_is_held_once() {
        let shared = Shared::default();
        let first = shared.share(map(1, "5"));
        assert!(Arc::ptr_eq(&first, &shared.share(map(1, "5"))));
        assert!(!Arc::ptr_eq(&first, &shared.share(map(2, "5"))), "another object");
        let second = shared.share(map(1, "6"));
        assert!(!Arc::ptr_eq(&first, &second), "another revision");
        assert!(Arc::ptr_eq(&second, &shared.share(map(1, "6"))));
        assert_eq!(shared.share(map(1, "5")).metadata.resource_version.as_deref(), Some("5"), "one who lags");
        assert!(Arc::ptr_eq(&second, &shared.share(map(1, "6"))), "does not displace the newer");
        let other = Secret { metadata: meta(1, "6"), ..Secret::default() };
        assert_eq!(shared.share(other).metadata.resource_version.as_deref(), Some("6"), "of another kind");
        let nameless = ConfigMap::default();
        assert!(!Arc::ptr_eq(&shared.share(nameless.clone()), &shared.share(nameless)), "who has no UID is nobody");
    }

    #[test]
    fn nothing_is_kept_alive_nor_remembered_for_long() {
        let shared = Shared::default();
        let kept = shared.share(map(0, "1"));
        for uid in 1..10_000 {
            let gone = Arc::downgrade(&shared.share(map(uid, "1")));
            assert!(gone.upgrade().is_none());
        }
        assert!(shared.0.lock().objects.len() <= 2 * SLACK);
        assert!(Arc::ptr_eq(&kept, &shared.share(map(0, "1"))));
    }
}
