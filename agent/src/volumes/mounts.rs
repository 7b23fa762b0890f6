//! Where a container sees its volumes.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use coracle_client::Pod;
use coracle_cri::v1::{Mount, MountPropagation};
use k8s_openapi::api::core::v1::{Container, Volume, VolumeMount};

use super::{PodDirs, is_written_by_node, path, volumes};
use crate::pod::env::expand;

pub const ETC_HOSTS: &str = "/etc/hosts";

/// The mounts of a container. The error is what its status shows with CreateContainerConfigError.
pub fn mounts(
    pod: &Pod,
    container: &Container,
    dirs: &PodDirs,
    env: &BTreeMap<String, String>,
) -> Result<Vec<Mount>, String> {
    let mut mounts = Vec::new();
    for (index, wanted) in container.volume_mounts.iter().flatten().enumerate() {
        let volume = volumes(pod).find(|volume| volume.name == wanted.name);
        let volume = volume.ok_or_else(|| {
            format!("cannot find volume \"{}\" to mount into container \"{}\"", wanted.name, container.name)
        })?;
        let root = path(dirs, volume)?;
        let host = match sub_path(wanted, env)? {
            None => root,
            Some(below) => {
                let place = dirs.root.join("volume-subpaths").join(&volume.name).join(&container.name);
                resolve(&root, &below, volume, &place.join(index.to_string())).map_err(|error| {
                    format!(
                        "failed to prepare subPath for volumeMount \"{}\" of container \"{}\": {error}",
                        wanted.name, container.name
                    )
                })?
            }
        };
        let propagation = match wanted.mount_propagation.as_deref() {
            Some("HostToContainer") => MountPropagation::PropagationHostToContainer,
            Some("Bidirectional") => MountPropagation::PropagationBidirectional,
            Some(_) | None => MountPropagation::PropagationPrivate,
        };
        mounts.push(Mount {
            container_path: absolute(&wanted.mount_path),
            host_path: host.display().to_string(),
            readonly: wanted.read_only == Some(true) || is_written_by_node(volume),
            propagation: propagation.into(),
            ..Mount::default()
        });
    }
    let network = pod.spec.as_ref().and_then(|spec| spec.host_network) != Some(true);
    if network && !mounts.iter().any(|mount| mount.container_path == ETC_HOSTS) {
        mounts.push(Mount {
            container_path: ETC_HOSTS.to_owned(),
            host_path: dirs.root.join("etc-hosts").display().to_string(),
            ..Mount::default()
        });
    }
    Ok(mounts)
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

fn sub_path(wanted: &VolumeMount, env: &BTreeMap<String, String>) -> Result<Option<PathBuf>, String> {
    let text = match (&wanted.sub_path, &wanted.sub_path_expr) {
        (Some(path), _) if !path.is_empty() => path.clone(),
        (_, Some(expression)) if !expression.is_empty() => {
            let missing = std::cell::Cell::new(false);
            let text = expand(expression, |name| {
                missing.set(missing.get() || !env.contains_key(name));
                env.get(name).cloned()
            });
            if missing.get() {
                return Err(format!("missing value for a variable in subPathExpr {expression:?}"));
            }
            text
        }
        (_, _) => return Ok(None),
    };
    let path = PathBuf::from(&text);
    let inside = path.components().all(|component| matches!(component, Component::Normal(_) | Component::CurDir));
    if inside { Ok(Some(path)) } else { Err(format!("subPath {text:?} must be a relative path without '..'")) }
}

/// A place inside a volume, made if it is not there. Links may not lead out of the volume. A file that the node writes
/// is copied to `place`, for an update would take away the one that is mounted; such a mount is never updated.
fn resolve(root: &Path, below: &Path, volume: &Volume, place: &Path) -> io::Result<PathBuf> {
    let wanted = root.join(below);
    if !wanted.exists() && !is_written_by_node(volume) {
        fs::create_dir_all(&wanted)?;
    }
    let (real_root, real) = (root.canonicalize()?, wanted.canonicalize()?);
    if !real.starts_with(&real_root) {
        let message = format!("{} leads out of its volume", below.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    if !is_written_by_node(volume) || real.is_dir() {
        return Ok(real);
    }
    if let Some(parent) = place.parent() {
        fs::create_dir_all(parent)?;
    }
    let temporary = place.with_extension("tmp");
    fs::copy(&real, &temporary)?;
    fs::rename(&temporary, place)?;
    Ok(place.to_owned())
}

/// The hosts file of a pod with a network of its own, as kubelet writes it.
pub fn hosts_file(pod: &Pod, pod_ips: &[String], hostname: &str, domain: &str) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    for ip in pod_ips {
        match domain {
            "" => text.push_str(&format!("{ip}\t{hostname}\n")),
            domain => text.push_str(&format!("{ip}\t{hostname}.{domain}\t{hostname}\n")),
        }
    }
    let aliases = pod.spec.iter().flat_map(|spec| spec.host_aliases.iter().flatten());
    let lines: Vec<String> = aliases
        .map(|alias| format!("{}\t{}\n", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t")))
        .collect();
    if !lines.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        text.extend(lines);
    }
    text
}
