//! Looks at volumes and what is opened there, which may take for ever: the kernel answers for a server that is gone only
//! when it is back. So they are taken on threads beside, of which there are not endlessly many.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use tokio::sync::Semaphore;
use tokio::task::JoinError;

use crate::turns::Turns;

/// None if nothing is there.
pub(super) fn is_dir(path: &Path) -> Option<bool> {
    fs::metadata(path).ok().map(|meta| meta.is_dir())
}

/// As [`is_dir`], but nobody is asked: also none if the kernel does not have it at hand. What it does not know of a
/// directory on the node's own disk, or in memory, is rare.
pub(super) fn is_known_dir(path: &Path) -> Option<bool> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let found = rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::CACHED).ok()?;
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let seen = rustix::fs::statx(found, "", flags, StatxFlags::TYPE).ok()?;
    Some(FileType::from_raw_mode(seen.stx_mode.into()).is_dir())
}

/// Of the front's 512 threads for what takes long the others are for what does not hang.
const THREADS: usize = 256;

/// One look at a time for each container of a sandbox, by its name: callers give up and come again, the thread of a look
/// that hangs stays.
#[derive(Debug)]
pub(super) struct Looks {
    turns: Turns<(String, String)>,
    threads: Arc<Semaphore>,
}

impl Default for Looks {
    fn default() -> Looks {
        Looks { turns: Turns::default(), threads: Arc::new(Semaphore::new(THREADS)) }
    }
}

impl Looks {
    /// Goes on with `look` even if it is dropped.
    pub(super) async fn take<T: Send + 'static>(
        &self,
        sandbox: &str,
        container: &str,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let turn = self.turns.take((sandbox.to_owned(), container.to_owned())).await;
        let thread = self.threads.clone().acquire_owned().await;
        tokio::task::spawn_blocking(move || {
            let _held = (turn, thread);
            look()
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures::FutureExt;

    use super::*;

    #[test]
    fn what_was_looked_at_before_is_known() {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "").expect("it can be written");
        std::os::unix::fs::symlink(dir.path(), &link).expect("a link can be made");
        for path in [dir.path(), &file, &link] {
            // Now and then something comes between.
            let known = (0..1000).find_map(|_| is_known_dir(path));
            assert_eq!(known, is_dir(path), "{}", path.display());
        }
        assert_eq!(is_known_dir(&dir.path().join("nothing")), None);
    }

    #[tokio::test]
    async fn a_look_that_hangs_takes_one_thread_and_holds_up_its_own_container_only() {
        let looks = Looks::default();
        let (server, volume) = mpsc::channel::<()>();
        let hangs = looks.take("pod", "hangs", move || volume.recv()).now_or_never();
        assert!(hangs.is_none(), "it was given up");
        let (told, seen) = mpsc::channel();
        let mut again = Box::pin(looks.take("pod", "hangs", move || told.send(())));
        assert!((&mut again).now_or_never().is_none());
        looks.take("pod", "other", || ()).await.expect("it does not panic");
        assert!(seen.try_recv().is_err(), "nobody looks beside the one that hangs");
        assert_eq!(looks.threads.available_permits(), THREADS - 1);
        drop(server);
        again.await.expect("it does not panic").expect("somebody listens");
    }
}
