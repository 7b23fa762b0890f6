//! The volumes of a pod: folders made for it on the node.
//!
//! Owns their content, its update and their removal, and how containers mount them. Must not know: where config maps,
//! secrets and tokens come from (they are handed in), and the runtime.

mod atomic;
mod host_path;
mod memory;
mod mounts;
mod payload;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coracle_api::Quantity;
use coracle_client::Pod;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ServiceAccountTokenProjection, Volume};

pub use mounts::{ETC_HOSTS, hosts_file, mounts};

use crate::pod::downward::PodFacts;
use crate::sources::{Source, SourceError, SourceKey, SourceKind};
use crate::tokens::StoredToken;

/// Where a pod's files lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodDirs {
    /// Volumes, and what belongs to single containers.
    pub root: PathBuf,
    pub logs: PathBuf,
}

impl PodDirs {
    /// The folders as kubelet names them, under the agent's own data folder.
    pub fn new(data_dir: &Path, namespace: &str, name: &str, uid: &str) -> Self {
        Self {
            root: data_dir.join("pods").join(uid),
            logs: data_dir.join("logs").join(format!("{namespace}_{name}_{uid}")),
        }
    }

    fn volume(&self, kind: &str, name: &str) -> PathBuf {
        self.root.join("volumes").join(format!("kubernetes.io~{kind}")).join(name)
    }

    /// The folder of an emptyDir.
    pub fn empty_dir(&self, name: &str) -> PathBuf {
        self.volume("empty-dir", name)
    }

    /// What belongs to one container alone.
    pub fn container(&self, name: &str) -> PathBuf {
        self.root.join("containers").join(name)
    }

    /// The log of one run, as the runtime is told (relative to `logs`).
    pub fn log_path(container: &str, attempt: u32) -> String {
        format!("{container}/{attempt}.log")
    }
}

/// What volumes are filled from.
pub struct VolumeInput<'a> {
    pub pod: &'a Pod,
    pub dirs: &'a PodDirs,
    pub facts: &'a PodFacts,
    pub sources: &'a BTreeMap<SourceKey, Result<Arc<Source>, SourceError>>,
    pub tokens: &'a BTreeMap<TokenKey, Result<StoredToken, String>>,
    pub now: Timestamp,
}

/// Audience and life in seconds.
pub type TokenKey = (String, i64);

/// A volume that cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {message}")]
pub struct VolumeError {
    pub volume: String,
    pub message: String,
}

/// Makes what is not there and brings the content of the rest up to date. What is right already is not touched. Gives the
/// volumes that should lie in memory and cannot.
pub fn set_up(input: &VolumeInput<'_>) -> Result<Vec<String>, VolumeError> {
    let mut on_disk = Vec::new();
    let io_fault =
        |volume: &str, error: io::Error| VolumeError { volume: volume.to_owned(), message: error.to_string() };
    make_dir(&input.dirs.root, 0o750).map_err(|error| io_fault("", error))?;
    for volume in volumes(input.pod) {
        let failed = |message: String| VolumeError { volume: volume.name.clone(), message };
        let path = path(input.dirs, volume).map_err(failed)?;
        if let Some(empty) = &volume.empty_dir {
            make_dir(&path, 0o777).map_err(|error| io_fault(&volume.name, error))?;
            if empty.medium.as_deref() == Some("Memory") {
                let limit = empty.size_limit.as_ref().and_then(|limit| limit.0.parse::<Quantity>().ok());
                let limit = limit.and_then(|limit| u64::try_from(limit.value()).ok()).filter(|bytes| *bytes > 0);
                if !memory::mount(&path, limit).map_err(|error| io_fault(&volume.name, error))? {
                    on_disk.push(volume.name.clone());
                }
            }
        } else if let Some(host) = &volume.host_path {
            host_path::check(&host.path, host.type_.as_deref().unwrap_or_default()).map_err(failed)?;
        } else {
            let payload = payload::of(input, volume).map_err(failed)?;
            make_dir(&path, 0o755).map_err(|error| io_fault(&volume.name, error))?;
            atomic::write(&path, &payload, input.now).map_err(|error| io_fault(&volume.name, error))?;
        }
    }
    Ok(on_disk)
}

/// Where a volume lies on the host; an error for those this node cannot provide.
fn path(dirs: &PodDirs, volume: &Volume) -> Result<PathBuf, String> {
    if let Some(empty) = &volume.empty_dir {
        return match empty.medium.as_deref().unwrap_or_default() {
            "" | "Memory" => Ok(dirs.empty_dir(&volume.name)),
            medium => Err(format!("unknown storage medium {medium:?}")),
        };
    }
    if let Some(host) = &volume.host_path {
        return Ok(PathBuf::from(&host.path));
    }
    let kind = match (&volume.config_map, &volume.secret, &volume.projected, &volume.downward_api) {
        (Some(_), _, _, _) => "configmap",
        (_, Some(_), _, _) => "secret",
        (_, _, Some(_), _) => "projected",
        (_, _, _, Some(_)) => "downward-api",
        (None, None, None, None) => {
            return Err(format!("this node does not provide volumes of the type {}", type_name(volume)));
        }
    };
    Ok(dirs.volume(kind, &volume.name))
}

fn type_name(volume: &Volume) -> &'static str {
    let types = [
        (volume.persistent_volume_claim.is_some(), "persistentVolumeClaim"),
        (volume.csi.is_some(), "csi"),
        (volume.ephemeral.is_some(), "ephemeral"),
        (volume.image.is_some(), "image"),
        (volume.nfs.is_some(), "nfs"),
        (volume.iscsi.is_some(), "iscsi"),
        (volume.fc.is_some(), "fc"),
        (volume.git_repo.is_some(), "gitRepo"),
    ];
    types.into_iter().find(|(is, _)| *is).map_or("given", |(_, name)| name)
}

/// Content that the node writes, and containers may only read.
fn is_written_by_node(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.projected.is_some()
        || volume.downward_api.is_some()
}

fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten())
}

/// The config maps and secrets a pod's volumes refer to.
pub fn references(pod: &Pod) -> BTreeSet<SourceKey> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut keys = BTreeSet::new();
    let mut refer = |kind, name: &str| {
        keys.insert(SourceKey { kind, namespace: namespace.into(), name: name.into() });
    };
    for volume in volumes(pod) {
        if let Some(map) = &volume.config_map {
            refer(SourceKind::ConfigMap, &map.name);
        }
        if let Some(name) = volume.secret.as_ref().and_then(|secret| secret.secret_name.as_ref()) {
            refer(SourceKind::Secret, name);
        }
        for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
            if let Some(map) = &source.config_map {
                refer(SourceKind::ConfigMap, &map.name);
            }
            if let Some(secret) = &source.secret {
                refer(SourceKind::Secret, &secret.name);
            }
        }
    }
    keys
}

/// The tokens a pod's volumes want.
pub fn token_projections(pod: &Pod) -> Vec<&ServiceAccountTokenProjection> {
    volumes(pod)
        .flat_map(|volume| volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()))
        .filter_map(|source| source.service_account_token.as_ref())
        .collect()
}

/// How a token is named between `tokens` and `set_up`.
pub fn token_key(projection: &ServiceAccountTokenProjection) -> TokenKey {
    (projection.audience.clone().unwrap_or_default(), projection.expiration_seconds.unwrap_or(3600))
}

/// Removes all that was made for a pod, but no host path.
pub fn tear_down(dirs: &PodDirs) -> io::Result<()> {
    remove_tree(&dirs.root)
}

/// Removes a folder with all in it and mounted in it; one that is not there is removed already.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    memory::unmount_below(path)?;
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes a folder with exactly this mode, whatever the umask.
fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    if !path.is_dir() {
        fs::create_dir_all(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}
