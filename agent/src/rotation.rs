//! Keeps container logs from filling the disk: a log that is large enough is renamed and the runtime opens a new one.
//!
//! Owns when to look and what to keep. It looks at file sizes only, the sooner the faster a log grows. Must not know:
//! what is in a log.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::runtime::Runtime;

/// Kubelet's defaults: a log of 10 MiB is rotated, and five files are kept with the one that is written.
const SIZE_MAX: u64 = 10 << 20;
const FILES_MAX: usize = 5;
const SOONEST: Duration = Duration::from_secs(10);
const LATEST: Duration = Duration::from_secs(60);

/// The log of a live container.
pub(crate) struct LiveLog {
    pub(crate) path: PathBuf,
    pub(crate) container_id: Arc<str>,
    pub(crate) runtime: Arc<Runtime>,
}

/// Sizes at the last look.
#[derive(Default)]
pub(crate) struct Rotation {
    seen: BTreeMap<PathBuf, u64>,
    looked: Option<Instant>,
}

impl Rotation {
    /// Rotates what has grown too large. Gives the time until the next look.
    pub(crate) async fn look(&mut self, logs: Vec<LiveLog>, now: Timestamp) -> Duration {
        let elapsed = self.looked.map_or(Duration::ZERO, |at| at.elapsed());
        self.looked = Some(Instant::now());
        let mut wait = LATEST;
        let mut seen = BTreeMap::new();
        for log in logs {
            // A container that has written nothing yet has no file.
            let Ok(size) = fs::metadata(&log.path).map(|meta| meta.len()) else { continue };
            if size >= SIZE_MAX {
                if let Err(error) = rotate(&log, now).await {
                    tracing::warn!(path = %log.path.display(), error, "a log cannot be rotated");
                }
                continue;
            }
            let grown = size.saturating_sub(self.seen.get(&log.path).copied().unwrap_or(0));
            wait = wait.min(until_full(size, grown, elapsed));
            seen.insert(log.path, size);
        }
        self.seen = seen;
        wait
    }
}

/// When a log will be full if it goes on as it did.
fn until_full(size: u64, grown: u64, elapsed: Duration) -> Duration {
    if grown == 0 || elapsed.is_zero() {
        return LATEST;
    }
    let left = SIZE_MAX.saturating_sub(size) as f64 / grown as f64;
    elapsed.mul_f64(left.min(1e6)).clamp(SOONEST, LATEST)
}

async fn rotate(log: &LiveLog, now: Timestamp) -> Result<(), String> {
    let name = format!("{}.{}", log.path.display(), now.strftime("%Y%m%d-%H%M%S"));
    fs::rename(&log.path, &name).map_err(|error| error.to_string())?;
    if let Err(error) = log.runtime.reopen_log(&log.container_id).await {
        // The runtime goes on writing to the old file: it gets its name back, so that readers find it.
        return match fs::rename(&name, &log.path) {
            Ok(()) => Err(error.to_string()),
            Err(lost) => Err(format!("{error}; and {name} cannot be renamed back: {lost}")),
        };
    }
    prune(&log.path).map_err(|error| error.to_string())
}

/// Removes the oldest rotated files of a log.
fn prune(path: &Path) -> io::Result<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let prefix = format!("{}.", name.to_string_lossy());
    let mut rotated: Vec<PathBuf> = fs::read_dir(dir)?
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect();
    // Their names end with the time, so the oldest come first.
    rotated.sort();
    let surplus = (rotated.len() + 1).saturating_sub(FILES_MAX);
    rotated.iter().take(surplus).try_for_each(fs::remove_file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Runtimes;
    use coracle_cri::RuntimeRouter;
    use coracle_cri::fake::FakeRuntime;

    #[tokio::test]
    async fn a_large_log_is_rotated_and_the_oldest_are_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let runtime = Runtimes::new(RuntimeRouter::new(FakeRuntime::new(0).endpoint())).all()[0].clone();
        let mut rotation = Rotation::default();
        for second in 0..7 {
            fs::File::create(&path).unwrap().set_len(SIZE_MAX).unwrap();
            let log = LiveLog { path: path.clone(), container_id: "c".into(), runtime: runtime.clone() };
            rotation.look(vec![log], Timestamp::from_second(second).unwrap()).await;
            assert!(!path.exists(), "the runtime makes a new file");
        }
        let mut names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        let kept: Vec<String> = (3..7).map(|second| format!("0.log.19700101-00000{second}")).collect();
        assert_eq!(names, kept);
    }

    #[tokio::test]
    async fn a_runtime_that_refuses_keeps_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        fs::File::create(&path).unwrap().set_len(SIZE_MAX).unwrap();
        let fake = FakeRuntime::new(0);
        fake.fail("ReopenContainerLog", 1, "no");
        let runtime = Runtimes::new(RuntimeRouter::new(fake.endpoint())).all()[0].clone();
        let log = LiveLog { path: path.clone(), container_id: "c".into(), runtime };
        Rotation::default().look(vec![log], Timestamp::UNIX_EPOCH).await;
        assert!(path.exists());
    }

    #[test]
    fn a_log_that_grows_fast_is_looked_at_soon() {
        let minute = Duration::from_secs(60);
        assert_eq!(until_full(0, 0, minute), LATEST);
        assert_eq!(until_full(SIZE_MAX / 2, SIZE_MAX / 2, minute), LATEST);
        assert_eq!(until_full(SIZE_MAX / 2, SIZE_MAX, minute), Duration::from_secs(30));
        assert_eq!(until_full(SIZE_MAX - 1, SIZE_MAX, minute), SOONEST);
    }
}
