//! What should run on this node, recorded on it: a node that boots with no server in reach starts its pods from here.
//!
//! Owns one file per pod (mode 0600, for it holds secrets and tokens), written only when its content changes, synced and
//! renamed into place. Must not know: how pods are run.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coracle_api::Uid;
use coracle_client::{OnExit, Pod, TaskScope, Wire as _};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use parking_lot::Mutex;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;

use crate::config::Disk;
use crate::tokens::StoredToken;

/// A pod with everything it needs to be started.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    /// Without its status, which changes often and is not needed.
    #[serde(deserialize_with = "pod")]
    pub pod: Pod,
    /// The runtime handler of its RuntimeClass.
    pub handler: String,
    pub config_maps: Vec<ConfigMap>,
    pub secrets: Vec<Secret>,
    pub tokens: Vec<StoredToken>,
    /// Environment variables that name services.
    pub services: BTreeMap<String, String>,
}

/// Read as the API's pods are, so that equal specs are held once here too.
fn pod<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Pod, D::Error> {
    let text = Box::<RawValue>::deserialize(deserializer)?;
    Pod::decode(text.get()).map_err(D::Error::custom)
}

/// The records of this node. Cheap to clone.
#[derive(Clone)]
pub struct Records {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    disk: Disk,
    /// Hashes of what is on disk.
    written: Mutex<BTreeMap<Uid, [u8; 32]>>,
    /// What waits to be written or, with `None`, removed.
    pending: Mutex<BTreeMap<Uid, Option<Vec<u8>>>>,
    notify: Notify,
}

impl Records {
    /// Opens the records under `data_dir` and starts the task that writes them.
    pub fn open(data_dir: &Path, disk: Disk, scope: &TaskScope) -> io::Result<Self> {
        let dir = data_dir.join("desired");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let inner = Inner { dir, disk, written: Mutex::default(), pending: Mutex::default(), notify: Notify::new() };
        let records = Self { inner: Arc::new(inner) };
        if disk == Disk::Threaded {
            let writer = records.inner.clone();
            scope.spawn("records", OnExit::restart(), move |cancel| {
                let writer = writer.clone();
                async move {
                    loop {
                        tokio::select! {
                            biased;
                            () = writer.notify.notified() => writer.flush_threaded().await,
                            () = cancel.cancelled() => return writer.flush_threaded().await,
                        }
                    }
                }
            });
        }
        Ok(records)
    }

    /// What was recorded. A file that cannot be read is named in the log and left for the user.
    pub fn load(&self) -> io::Result<Vec<Record>> {
        let mut records = Vec::new();
        let mut names: Vec<_> = fs::read_dir(&self.inner.dir)?.collect::<Result<_, _>>()?;
        names.sort_by_key(fs::DirEntry::file_name);
        for entry in names {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let bytes = match fs::read(&path) {
                Ok(bytes) => bytes,
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "a recorded pod cannot be read and is not started");
                    continue;
                }
            };
            match std::str::from_utf8(&bytes)
                .map_err(serde_json::Error::custom)
                .and_then(serde_json::from_str::<Record>)
            {
                Ok(record) => {
                    let uid = record.pod.metadata.uid.clone().unwrap_or_default();
                    self.inner.written.lock().insert(uid.as_str().into(), Sha256::digest(&bytes).into());
                    records.push(record);
                }
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "a recorded pod cannot be read and is not started");
                }
            }
        }
        Ok(records)
    }

    /// Records a pod; the same content again writes nothing.
    pub fn put(&self, uid: &Uid, record: &Record) {
        let bytes = serde_json::to_vec(record).expect("a record is plain data");
        let hash: [u8; 32] = Sha256::digest(&bytes).into();
        if self.inner.written.lock().insert(uid.clone(), hash) != Some(hash) {
            self.submit(uid, Some(bytes));
        }
    }

    /// Forgets a pod.
    pub fn remove(&self, uid: &Uid) {
        if self.inner.written.lock().remove(uid).is_some() {
            self.submit(uid, None);
        }
    }

    fn submit(&self, uid: &Uid, content: Option<Vec<u8>>) {
        match self.inner.disk {
            Disk::Inline => self.inner.apply(uid, content.as_deref()),
            Disk::Threaded => {
                self.inner.pending.lock().insert(uid.clone(), content);
                self.inner.notify.notify_one();
            }
        }
    }
}

impl Inner {
    async fn flush_threaded(self: &Arc<Self>) {
        let pending = std::mem::take(&mut *self.pending.lock());
        if pending.is_empty() {
            return;
        }
        let inner = self.clone();
        let written = tokio::task::spawn_blocking(move || {
            for (uid, content) in pending {
                inner.apply(&uid, content.as_deref());
            }
        });
        if let Err(error) = written.await {
            tracing::error!(%error, "writing records failed");
        }
    }

    fn apply(&self, uid: &Uid, content: Option<&[u8]>) {
        let path = self.dir.join(format!("{uid}.json"));
        let done = match content {
            Some(bytes) => write_private(&path, bytes, self.disk == Disk::Threaded),
            None => match fs::remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                other => other,
            },
        };
        if let Err(error) = done {
            // The pod runs all the same; only a boot without server would miss it.
            tracing::error!(path = %path.display(), %error, "cannot record a pod");
            self.written.lock().remove(uid);
        }
    }
}

/// Writes a file that only its owner may read, whole or not at all.
pub(crate) fn write_private(path: &Path, bytes: &[u8], sync: bool) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    if sync {
        file.sync_all()?;
    }
    drop(file);
    fs::rename(&temporary, path)?;
    if sync && let Some(parent) = path.parent() {
        fs::File::open(parent)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    fn record(uid: &str, name: &str) -> Record {
        let mut record = Record::default();
        record.pod.metadata.uid = Some(uid.to_owned());
        record.pod.metadata.name = Some(name.to_owned());
        record
    }

    #[tokio::test]
    async fn records_are_private_and_written_only_when_they_change() {
        let dir = tempfile::tempdir().unwrap();
        let scope = TaskScope::root();
        let records = Records::open(dir.path(), Disk::Threaded, &scope).unwrap();
        records.put(&"u1".into(), &record("u1", "a"));
        records.put(&"u2".into(), &record("u2", "b"));
        records.remove(&"u2".into());
        // The end of the scope waits for what is to be written.
        scope.shutdown().await;
        let file = dir.path().join("desired/u1.json");
        let meta = fs::metadata(&file).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(dir.path().join("desired")).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(dir.path().join("desired")).unwrap().count(), 1);

        let scope = TaskScope::root();
        let records = Records::open(dir.path(), Disk::Threaded, &scope).unwrap();
        fs::write(dir.path().join("desired/broken.json"), "{").unwrap();
        // A bad sector must not keep the other pods from starting.
        fs::create_dir(dir.path().join("desired/a-folder.json")).unwrap();
        let loaded = records.load().unwrap();
        assert_eq!(loaded.len(), 1, "what cannot be read is left out");
        records.put(&"u1".into(), &loaded[0]);
        scope.shutdown().await;
        assert_eq!(fs::metadata(&file).unwrap().ino(), meta.ino(), "the same content is not written again");
    }
}
