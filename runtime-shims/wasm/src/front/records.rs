//! What exists, on disk: one file for each sandbox and container, so that a front that comes back knows what there was.
//!
//! Files are replaced by rename but not synced: they tell of processes, and no process outlives a power loss. A file
//! that cannot be read counts as absent.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use coracle_cri::v1::{ContainerConfig, PodSandboxConfig};
use ipnet::Ipv4Net;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::cgroup::Groups;
use super::domain::Domain;
use super::packed::Packed;
use super::plan::HttpPlan;
use super::process::Identity;
use super::programs::Program;
use crate::clock::UnixNanos;
use crate::images::Digest;

/// A pod sandbox: an address and a configuration. It has no process, so it outlives the front.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SandboxRecord {
    pub(super) id: String,
    pub(super) created_at: UnixNanos,
    pub(super) handler: String,
    pub(super) ready: bool,
    /// None in the host's network, and once the sandbox has stopped.
    pub(super) ip: Option<Ipv4Addr>,
    pub(super) config: Packed<PodSandboxConfig>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ContainerRecord {
    pub(super) id: String,
    pub(super) sandbox: String,
    pub(super) created_at: UnixNanos,
    pub(super) image: ImageRecord,
    /// What its command names, found when it was made.
    #[serde(default)]
    pub(super) program: Program,
    /// Chosen when the container was made, so that its siblings can avoid it.
    pub(super) http: Option<HttpPort>,
    pub(super) phase: Phase,
    /// The worker it runs in, by its id.
    #[serde(default)]
    pub(super) worker: Option<String>,
    pub(super) config: Packed<ContainerConfig>,
}

/// A worker process. It outlives the front, so the next one must find it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct WorkerRecord {
    pub(super) id: String,
    pub(super) domain: Domain,
    /// Of the front that started it.
    pub(super) build: String,
    pub(super) process: Identity,
    /// What the machine code is made under that it can load. Not known of workers of earlier builds.
    #[serde(default)]
    pub(super) settings: Option<String>,
    /// Of a pod's own worker, where they can be made.
    #[serde(default)]
    pub(super) groups: Option<Groups>,
}

impl WorkerRecord {
    /// The name of its socket.
    pub(super) fn socket(&self) -> String {
        format!("{}.sock", self.id)
    }

    pub(super) fn path(&self, dir: &Path) -> PathBuf {
        dir.join(format!("{}.json", self.id))
    }

    pub(super) fn save(&self, dir: &Path) -> io::Result<()> {
        save(&self.path(dir), self)
    }

    /// None where there is no such directory: no front was ever here.
    pub(super) fn load_all(dir: &Path) -> io::Result<Vec<WorkerRecord>> {
        match load(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            loaded => loaded,
        }
    }
}

/// The port of a container that serves HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HttpPort(pub(super) u16);

impl From<&HttpPlan> for HttpPort {
    fn from(plan: &HttpPlan) -> HttpPort {
        HttpPort(plan.port)
    }
}

/// The image as it was when the container was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ImageRecord {
    pub(super) name: String,
    pub(super) id: Digest,
    pub(super) repo_digest: String,
}

/// ```text
/// Created ──▶ Running ──▶ Exited
///    └───────────────────────▲    (it could not be started)
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Phase {
    Created,
    Running { started_at: UnixNanos },
    Exited(Ended),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ended {
    /// 0 if it never ran.
    pub(super) started_at: UnixNanos,
    pub(super) finished_at: UnixNanos,
    pub(super) code: i32,
    pub(super) reason: String,
    pub(super) message: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Network {
    pod_cidr: Option<Ipv4Net>,
}

#[derive(Debug)]
pub(super) struct Records {
    sandboxes: PathBuf,
    containers: PathBuf,
    network: PathBuf,
}

impl Records {
    pub(super) fn open(dir: &Path) -> io::Result<Records> {
        let records = Records {
            sandboxes: dir.join("sandboxes"),
            containers: dir.join("containers"),
            network: dir.join("network.json"),
        };
        fs::create_dir_all(&records.sandboxes)?;
        fs::create_dir_all(&records.containers)?;
        Ok(records)
    }

    pub(super) fn sandboxes(&self) -> io::Result<Vec<SandboxRecord>> {
        load(&self.sandboxes)
    }

    pub(super) fn containers(&self) -> io::Result<Vec<ContainerRecord>> {
        load(&self.containers)
    }

    pub(super) fn save_sandbox(&self, record: &SandboxRecord) -> io::Result<()> {
        save(&self.sandboxes.join(format!("{}.json", record.id)), record)
    }

    pub(super) fn save_container(&self, record: &ContainerRecord) -> io::Result<()> {
        save(&self.containers.join(format!("{}.json", record.id)), record)
    }

    pub(super) fn remove_sandbox(&self, id: &str) -> io::Result<()> {
        remove(&self.sandboxes.join(format!("{id}.json")))
    }

    pub(super) fn remove_container(&self, id: &str) -> io::Result<()> {
        remove(&self.containers.join(format!("{id}.json")))
    }

    pub(super) fn pod_cidr(&self) -> Option<Ipv4Net> {
        let text = fs::read(&self.network).ok()?;
        serde_json::from_slice::<Network>(&text).ok()?.pod_cidr
    }

    pub(super) fn save_pod_cidr(&self, pod_cidr: Ipv4Net) -> io::Result<()> {
        save(&self.network, &Network { pod_cidr: Some(pod_cidr) })
    }
}

fn load<T: DeserializeOwned>(dir: &Path) -> io::Result<Vec<T>> {
    let mut records = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        match serde_json::from_slice(&fs::read(&path)?) {
            Ok(record) => records.push(record),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "an unreadable record is removed");
                fs::remove_file(&path)?;
            }
        }
    }
    Ok(records)
}

fn save(path: &Path, record: &impl Serialize) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, serde_json::to_vec(record)?)?;
    fs::rename(new, path)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
