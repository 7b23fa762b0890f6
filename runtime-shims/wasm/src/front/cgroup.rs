//! A control group for the worker of one pod, with the pod's limits: what the kernel counts is then all of the process,
//! not only what guests are seen to use. Versions 1 and 2, whichever has the controller.
//!
//! It is a second fence. Where groups cannot be made (no root, a read-only mount) the worker runs without.

use std::fs;
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

use coracle_cri::v1::{ContainerConfig, LinuxContainerResources, PodSandboxConfig};
use serde::{Deserialize, Serialize};

/// What a worker needs for itself, beside its guests.
const WORKER_BYTES: u64 = 64 << 20;
const PERIOD_US: u64 = 100_000;
/// Below this the kernel takes no quota.
const QUOTA_MIN_US: u64 = 1_000;
/// Where the sandbox names no parent.
const PARENT: &str = "coracle";

/// What a pod may use. None is without limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Limits {
    /// The worker's own need is in it.
    pub(super) memory_bytes: Option<u64>,
    /// In each period of 100 ms.
    pub(super) cpu_quota_us: Option<u64>,
}

/// What the containers may use together, if each has a limit: what the sandbox says, else their sum. Where one has none,
/// neither means anything, because a sandbox's resources are the sum of those that there are. The pod's overhead is added.
pub(super) fn limits(sandbox: &PodSandboxConfig, containers: &[ContainerConfig]) -> Limits {
    let pod = sandbox.linux.as_ref().and_then(|linux| linux.resources.as_ref());
    let overhead = sandbox.linux.as_ref().and_then(|linux| linux.overhead.as_ref());
    let each: Vec<LinuxContainerResources> = containers
        .iter()
        .map(|config| config.linux.as_ref().and_then(|linux| linux.resources.clone()).unwrap_or_default())
        .collect();
    let of = |read: fn(&LinuxContainerResources) -> Option<u64>| {
        let sum = each.iter().map(read).try_fold(0_u64, |sum, one| sum.checked_add(one?)).filter(|sum| *sum > 0)?;
        let over = overhead.and_then(read).unwrap_or(0);
        Some(pod.and_then(read).unwrap_or(sum).saturating_add(over))
    };
    Limits {
        memory_bytes: of(memory_of).map(|bytes| bytes.saturating_add(WORKER_BYTES)),
        cpu_quota_us: of(quota_of).map(|quota| quota.max(QUOTA_MIN_US)),
    }
}

fn memory_of(resources: &LinuxContainerResources) -> Option<u64> {
    u64::try_from(resources.memory_limit_in_bytes).ok().filter(|bytes| *bytes > 0)
}

/// For a period of [`PERIOD_US`].
fn quota_of(resources: &LinuxContainerResources) -> Option<u64> {
    let quota = u64::try_from(resources.cpu_quota).ok().filter(|quota| *quota > 0)?;
    let period = u64::try_from(resources.cpu_period).ok().filter(|period| *period > 0).unwrap_or(PERIOD_US);
    Some(quota.saturating_mul(PERIOD_US) / period)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Version {
    V1,
    V2,
}

/// Where a controller is to be found.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    version: Version,
    root: PathBuf,
}

/// The hierarchies of memory and cpu.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Hierarchies {
    memory: Option<Hierarchy>,
    cpu: Option<Hierarchy>,
}

/// From `/proc/mounts`. A controller that version 1 has is not in version 2.
fn hierarchies(mounts: &str) -> Hierarchies {
    let mut found = Hierarchies::default();
    let mut unified = None;
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [_, root, kind, options, ..] = fields.as_slice() else { continue };
        let root = PathBuf::from(root);
        if *kind == "cgroup2" {
            unified.get_or_insert(Hierarchy { version: Version::V2, root });
        } else if *kind == "cgroup" {
            for option in options.split(',') {
                let hierarchy = || Hierarchy { version: Version::V1, root: root.clone() };
                match option {
                    "memory" => found.memory = Some(hierarchy()),
                    "cpu" => found.cpu = Some(hierarchy()),
                    _ => {}
                }
            }
        }
    }
    // Beside version 1 it has no controllers.
    if found == Hierarchies::default() {
        found = Hierarchies { memory: unified.clone(), cpu: unified };
    }
    found
}

/// The groups of one worker: one, or one for each controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Groups {
    memory: Option<Group>,
    cpu: Option<Group>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Group {
    version: Version,
    dir: PathBuf,
}

impl Groups {
    /// Makes groups `name` below the pod's parent, with its limits.
    pub(super) fn make(sandbox: &PodSandboxConfig, name: &str, limits: Limits) -> io::Result<Groups> {
        let hierarchies = hierarchies(&fs::read_to_string("/proc/mounts")?);
        let parent = sandbox.linux.as_ref().map(|linux| linux.cgroup_parent.as_str()).unwrap_or_default();
        let parent = if parent.is_empty() { PARENT } else { parent };
        let below = relative(Path::new(parent))?.join(name);
        let make = |hierarchy: Option<Hierarchy>| {
            hierarchy
                .map(|Hierarchy { version, root }| {
                    let dir = root.join(&below);
                    if version == Version::V2 {
                        pass_on_controllers(&root, &below)?;
                    }
                    fs::create_dir_all(&dir)?;
                    Ok::<Group, io::Error>(Group { version, dir })
                })
                .transpose()
        };
        let groups = Groups { memory: make(hierarchies.memory)?, cpu: make(hierarchies.cpu)? };
        if groups.dirs().is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no control groups for memory or cpu are mounted"));
        }
        let limited = groups.limit(limits);
        if limited.is_err() {
            groups.remove();
        }
        limited.map(|()| groups)
    }

    pub(super) fn limit(&self, limits: Limits) -> io::Result<()> {
        if let Some(Group { version, dir }) = &self.memory {
            match version {
                Version::V1 => set(dir, "memory.limit_in_bytes", &or(limits.memory_bytes, "-1"))?,
                Version::V2 => {
                    set(dir, "memory.max", &or(limits.memory_bytes, "max"))?;
                    // Guests of one process end together; there is nothing to be chosen among.
                    let _ = set(dir, "memory.oom.group", "1");
                }
            }
        }
        if let Some(Group { version, dir }) = &self.cpu {
            match version {
                Version::V1 => {
                    set(dir, "cpu.cfs_period_us", &PERIOD_US.to_string())?;
                    set(dir, "cpu.cfs_quota_us", &or(limits.cpu_quota_us, "-1"))?;
                }
                Version::V2 => set(dir, "cpu.max", &format!("{} {PERIOD_US}", or(limits.cpu_quota_us, "max")))?,
            }
        }
        Ok(())
    }

    pub(super) fn take_in(&self, pid: i32) -> io::Result<()> {
        self.dirs().into_iter().try_for_each(|dir| set(dir, "cgroup.procs", &pid.to_string()))
    }

    /// Whether the kernel ended something in it for lack of memory.
    pub(super) fn ran_out_of_memory(&self) -> bool {
        let Some(Group { version, dir }) = &self.memory else { return false };
        let file = match version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
        has_oom_kill(&text)
    }

    /// When nothing is in it any more.
    pub(super) fn remove(&self) {
        for dir in self.dirs() {
            match fs::remove_dir(dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(dir = %dir.display(), %error, "a control group cannot be removed");
                }
                Ok(()) | Err(_) => {}
            }
        }
    }

    fn dirs(&self) -> Vec<&Path> {
        let mut dirs: Vec<&Path> = [&self.memory, &self.cpu].into_iter().flatten().map(|group| &*group.dir).collect();
        dirs.dedup();
        dirs
    }
}

/// Both versions count alike, in different files.
fn has_oom_kill(text: &str) -> bool {
    text.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count.trim() != "0"))
}

/// Version 2 gives a group what its parent passes on. What a parent does not have, the limit's file will lack.
fn pass_on_controllers(root: &Path, below: &Path) -> io::Result<()> {
    let mut dir = root.to_owned();
    for part in below {
        for controller in ["+memory", "+cpu"] {
            if let Err(error) = set(&dir, "cgroup.subtree_control", controller) {
                tracing::debug!(dir = %dir.display(), controller, %error, "a controller is not passed on");
            }
        }
        dir.push(part);
        match fs::create_dir(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// A parent is named from the hierarchy's root on, and does not leave it.
fn relative(parent: &Path) -> io::Result<PathBuf> {
    let mut path = PathBuf::new();
    for part in parent.components() {
        match part {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => path.push(name),
            Component::ParentDir | Component::Prefix(_) => {
                let why = format!("cgroup_parent {}: must not contain ..", parent.display());
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
            }
        }
    }
    Ok(path)
}

fn or(value: Option<u64>, unlimited: &str) -> String {
    value.map_or_else(|| unlimited.to_owned(), |value| value.to_string())
}

/// Such files exist or do not; making one would be wrong.
fn set(dir: &Path, file: &str, value: &str) -> io::Result<()> {
    let path = dir.join(file);
    let written = fs::OpenOptions::new().write(true).open(&path).and_then(|mut file| file.write_all(value.as_bytes()));
    written.map_err(|error| io::Error::new(error.kind(), format!("{value:?} to {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use coracle_cri::v1::{LinuxContainerConfig, LinuxPodSandboxConfig};

    use super::*;

    fn resources(memory: i64, quota: i64, period: i64) -> LinuxContainerResources {
        LinuxContainerResources {
            memory_limit_in_bytes: memory,
            cpu_quota: quota,
            cpu_period: period,
            ..LinuxContainerResources::default()
        }
    }

    fn check_limits(pod: Option<LinuxContainerResources>, containers: &[LinuxContainerResources]) -> (u64, u64) {
        let sandbox = PodSandboxConfig {
            linux: Some(LinuxPodSandboxConfig { resources: pod, ..LinuxPodSandboxConfig::default() }),
            ..PodSandboxConfig::default()
        };
        let configs: Vec<ContainerConfig> = containers
            .iter()
            .map(|resources| ContainerConfig {
                linux: Some(LinuxContainerConfig { resources: Some(resources.clone()), security_context: None }),
                ..ContainerConfig::default()
            })
            .collect();
        let limits = limits(&sandbox, &configs);
        (limits.memory_bytes.map_or(0, |bytes| bytes - WORKER_BYTES), limits.cpu_quota_us.unwrap_or(0))
    }

    #[test]
    fn containers_limits_add_up_if_each_has_one() {
        assert_eq!(check_limits(None, &[resources(10, 20_000, 100_000), resources(5, 5_000, 50_000)]), (15, 30_000));
        assert_eq!(check_limits(None, &[resources(10, 20_000, 100_000), resources(0, -1, 0)]), (0, 0));
        assert_eq!(check_limits(None, &[]), (0, 0));
        assert_eq!(check_limits(None, &[resources(10, 10, 100_000)]), (10, QUOTA_MIN_US));
    }

    #[test]
    fn the_pods_own_limits_come_first_where_each_container_has_one() {
        assert_eq!(check_limits(Some(resources(99, 0, 0)), &[resources(10, 20_000, 100_000)]), (99, 20_000));
        // The sandbox's resources are then the sum of what the others have.
        let unbound = [resources(10, 20_000, 100_000), resources(0, 0, 0)];
        assert_eq!(check_limits(Some(resources(10, 20_000, 100_000)), &unbound), (0, 0));
    }

    #[test]
    fn overhead_is_on_top() {
        let linux = LinuxPodSandboxConfig {
            overhead: Some(resources(1000, 5_000, 50_000)),
            resources: Some(resources(10, 20_000, 100_000)),
            ..LinuxPodSandboxConfig::default()
        };
        let sandbox = PodSandboxConfig { linux: Some(linux), ..PodSandboxConfig::default() };
        let container = ContainerConfig {
            linux: Some(LinuxContainerConfig {
                resources: Some(resources(10, 20_000, 100_000)),
                security_context: None,
            }),
            ..ContainerConfig::default()
        };
        let limits = limits(&sandbox, &[container]);
        assert_eq!(limits.memory_bytes, Some(1010 + WORKER_BYTES));
        assert_eq!(limits.cpu_quota_us, Some(30_000));
    }

    #[test]
    fn controllers_are_found_in_either_version() {
        let v2 = hierarchies("proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n");
        let unified = Hierarchy { version: Version::V2, root: "/sys/fs/cgroup".into() };
        assert_eq!(v2, Hierarchies { memory: Some(unified.clone()), cpu: Some(unified) });
        let hybrid = hierarchies(
            "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\ncgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\ncgroup \
             /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n",
        );
        let v1 = |root: &str| Some(Hierarchy { version: Version::V1, root: root.into() });
        assert_eq!(hybrid.memory, v1("/sys/fs/cgroup/memory"));
        assert_eq!(hybrid.cpu, v1("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(hierarchies("proc /proc proc rw 0 0\n"), Hierarchies::default());
    }

    #[test]
    fn an_end_for_lack_of_memory_is_told_from_others() {
        assert!(has_oom_kill("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"));
        assert!(!has_oom_kill("low 0\nhigh 0\nmax 17\noom 0\noom_kill 0\noom_group_kill 0\n"));
    }

    #[test]
    fn a_parent_stays_below_the_root() {
        assert_eq!(relative(Path::new("/kubepods/pod1")).expect("fine"), Path::new("kubepods/pod1"));
        assert!(relative(Path::new("/kubepods/../../etc")).is_err());
    }
}
