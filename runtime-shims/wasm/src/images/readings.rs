//! Reading the layers of images: minutes of a thread that nobody can stop, if the image means harm. So of those that are
//! pulled or looked into one is read at a time, for as long as its thread runs though its asker may be gone, and what was
//! found is remembered. Whoever imports an archive reads it beside these, in its own thread.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{Digest, ImageError, ImageStore, Programs};

/// Of the paths that are remembered. Those of the image that was read last may be more.
const KNOWN_BYTES_MAX: usize = 4 << 20;
/// What is kept beside the paths of an image, about.
const ENTRY_BYTES: usize = 256;

/// By the image's id, which names its content. The oldest first.
type Known = VecDeque<(Digest, Arc<Programs>)>;

#[derive(Debug, Clone)]
pub(super) struct Readings {
    turn: Arc<Semaphore>,
    known: Arc<Mutex<Known>>,
}

impl Default for Readings {
    fn default() -> Readings {
        Readings { turn: Arc::new(Semaphore::new(1)), known: Arc::default() }
    }
}

impl Readings {
    pub(super) fn known(&self, id: &Digest) -> Option<Arc<Programs>> {
        self.known.lock().iter().find(|(known, _)| known == id).map(|(_, programs)| programs.clone())
    }

    pub(super) fn remember(&self, id: Digest, programs: &Arc<Programs>) {
        let mut known = self.known.lock();
        known.retain(|(other, _)| *other != id);
        known.push_back((id, programs.clone()));
        let bytes = |(_, programs): &(Digest, Arc<Programs>)| {
            ENTRY_BYTES + programs.paths.iter().map(|path| ENTRY_BYTES + path.len()).sum::<usize>()
        };
        let mut total: usize = known.iter().map(bytes).sum();
        while total > KNOWN_BYTES_MAX && known.len() > 1 {
            total -= known.pop_front().as_ref().map(bytes).unwrap_or_default();
        }
    }
}

impl ImageStore {
    /// Does what reads layers in a thread of its own when its turn has come. Who gives up before that starts nothing.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&ImageStore) -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T, ImageError> {
        let turn = self.readings.turn.clone().acquire_owned().await;
        let store = self.clone();
        let reading = move || {
            let _turn = turn;
            read(&store)
        };
        let failed = |error| ImageError::io("read", "layers", io::Error::other(error));
        tokio::task::spawn_blocking(reading).await.unwrap_or_else(|error| Err(failed(error)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn who_gives_up_before_its_turn_starts_nothing_and_who_does_later_keeps_its_turn() {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let store = ImageStore::open(dir.path()).expect("it opens");
        let (end, ended) = mpsc::channel::<()>();
        let (told, heard) = mpsc::channel();
        let say = |who: &'static str| {
            let told = told.clone();
            move |_: &ImageStore| told.send(who).map_err(|_| unreachable!("somebody listens"))
        };
        let first = say("first");
        let mut reading = store
            .read(move |store| {
                let _ = ended.recv();
                first(store)
            })
            .boxed();
        let mut waiting = store.read(say("second")).boxed();
        let third = store.read(say("third"));
        assert!((&mut reading).now_or_never().is_none() && (&mut waiting).now_or_never().is_none());
        drop((reading, waiting));
        let mut third = third.boxed();
        assert!((&mut third).now_or_never().is_none(), "the first one's thread still reads");
        drop(end);
        third.await.expect("it is its turn");
        assert_eq!(heard.try_iter().collect::<Vec<_>>(), ["first", "third"]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let readings = Readings::default();
        let programs = |bytes: usize| Arc::new(Programs { paths: vec!["p".repeat(bytes)], is_one: true });
        let ids = ["one", "other", "large"].map(|name| Digest::of(name.as_bytes()));
        let remembered = || ids.each_ref().map(|id| readings.known(id).is_some());
        readings.remember(ids[0].clone(), &programs(KNOWN_BYTES_MAX / 2));
        readings.remember(ids[1].clone(), &programs(KNOWN_BYTES_MAX / 3));
        assert_eq!(remembered(), [true, true, false]);
        readings.remember(ids[1].clone(), &programs(KNOWN_BYTES_MAX / 3));
        assert_eq!(remembered(), [true, true, false]);
        readings.remember(ids[2].clone(), &programs(KNOWN_BYTES_MAX / 2));
        assert_eq!(remembered(), [false, true, true]);
        readings.remember(ids[2].clone(), &programs(KNOWN_BYTES_MAX * 2));
        assert_eq!(remembered(), [false, false, true]);
    }
}
