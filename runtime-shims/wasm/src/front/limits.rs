//! What a container and its pod may use, from CRI's resources and from annotations. Decided here without I/O.

use coracle_cri::v1::{ContainerConfig, LinuxContainerResources, PodSandboxConfig};

use super::plan::annotation;
use crate::wire::{AtMemoryLimit, CpuSpec, GuestLimits, LogLimits, PodLimits, PodSpec};

/// Pod annotations that are read, alone or with `.CONTAINER` behind them.
const AT_MEMORY_LIMIT: &str = "coracle.dev/at-memory-limit";
const MAX_SOCKETS: &str = "coracle.dev/max-sockets";
const MAX_FILES: &str = "coracle.dev/max-open-files";
const MAX_LOOKUPS: &str = "coracle.dev/max-dns-lookups";
const MAX_OBJECTS: &str = "coracle.dev/max-host-objects";
const LOG_RATE: &str = "coracle.dev/log-bytes-per-second";
const LOG_BURST: &str = "coracle.dev/log-burst-bytes";
const LOG_LINE: &str = "coracle.dev/log-line-bytes";

/// The kernel's own period where none is given.
const PERIOD_US: u64 = 100_000;
/// What a container weighs that says nothing.
const WEIGHT: u64 = 1024;

/// What one container may use.
pub(super) fn plan_limits(sandbox: &PodSandboxConfig, config: &ContainerConfig) -> Result<GuestLimits, String> {
    let number = |key: &str, default: u64, range: std::ops::RangeInclusive<u64>| {
        let Some((key, text)) = annotation(sandbox, config, key) else { return Ok(default) };
        match text.parse() {
            Ok(value) if range.contains(&value) => Ok(value),
            Ok(_) | Err(_) => {
                let (low, high) = (range.start(), range.end());
                Err(format!("annotation {key}: {text:?} is no number from {low} to {high}"))
            }
        }
    };
    let count = |key: &str, default: usize, low: u64, high: u64| {
        number(key, default as u64, low..=high).map(|value| usize::try_from(value).unwrap_or(usize::MAX))
    };
    let at_memory_limit = match annotation(sandbox, config, AT_MEMORY_LIMIT) {
        None => AtMemoryLimit::Kill,
        Some((_, "kill")) => AtMemoryLimit::Kill,
        Some((_, "refuse")) => AtMemoryLimit::Refuse,
        Some((key, text)) => {
            return Err(format!(
                "annotation {key}: {text:?}: must be kill (the container ends as OOMKilled) or refuse (memory.grow \
                 gives -1)"
            ));
        }
    };
    let usual = GuestLimits::default();
    let LogLimits { bytes_per_second, burst_bytes, line_bytes } = usual.log;
    Ok(GuestLimits {
        cpu: cpu(resources(config)),
        at_memory_limit,
        sockets: count(MAX_SOCKETS, usual.sockets, 0, 1_000_000)?,
        files: count(MAX_FILES, usual.files, 0, 1_000_000)?,
        lookups: count(MAX_LOOKUPS, usual.lookups, 0, 10_000)?,
        host_objects: count(MAX_OBJECTS, usual.host_objects, 100, 1_000_000)?,
        log: LogLimits {
            bytes_per_second: number(LOG_RATE, bytes_per_second, 1..=1 << 40)?,
            burst_bytes: number(LOG_BURST, burst_bytes, 1..=1 << 40)?,
            line_bytes: count(LOG_LINE, line_bytes, 128, 64 << 10)?,
        },
    })
}

/// What the container shares with its pod's others. The sandbox's resources are the sum of what containers have as their
/// own, so they bind only those that have a limit of their own: beside one that has none, the sum means nothing. A sandbox
/// that has none may get some later.
pub(super) fn plan_pod(id: &str, sandbox: &PodSandboxConfig, config: &ContainerConfig) -> Option<PodSpec> {
    let own = resources(config)?;
    let (cpu, memory) = (own.cpu_quota > 0, own.memory_limit_in_bytes > 0);
    (cpu || memory).then(|| PodSpec { limits: pod_limits(id, sandbox), cpu, memory })
}

/// The limits of a sandbox with its overhead.
pub(super) fn pod_limits(id: &str, sandbox: &PodSandboxConfig) -> PodLimits {
    let linux = sandbox.linux.as_ref();
    let all = linux.and_then(|linux| linux.resources.clone()).unwrap_or_default();
    let overhead = linux.and_then(|linux| linux.overhead.clone()).unwrap_or_default();
    let period_us = positive(all.cpu_period).unwrap_or(PERIOD_US);
    let over_us = positive(overhead.cpu_quota)
        .map_or(0, |quota| quota.saturating_mul(period_us) / positive(overhead.cpu_period).unwrap_or(PERIOD_US));
    let over_bytes = positive(overhead.memory_limit_in_bytes).unwrap_or(0);
    PodLimits {
        pod: id.to_owned(),
        cpu_quota_us: positive(all.cpu_quota).map(|quota| quota.saturating_add(over_us)),
        cpu_period_us: period_us,
        memory_bytes: positive(all.memory_limit_in_bytes).map(|bytes| bytes.saturating_add(over_bytes)),
    }
}

/// Puts `news` in place of what there was. In CRI a number that is 0 says nothing.
pub(super) fn update(resources: &mut LinuxContainerResources, news: &LinuxContainerResources) {
    let put = |old: &mut i64, new: i64| {
        if new != 0 {
            *old = new;
        }
    };
    put(&mut resources.cpu_period, news.cpu_period);
    put(&mut resources.cpu_quota, news.cpu_quota);
    put(&mut resources.cpu_shares, news.cpu_shares);
    put(&mut resources.memory_limit_in_bytes, news.memory_limit_in_bytes);
}

fn resources(config: &ContainerConfig) -> Option<&LinuxContainerResources> {
    config.linux.as_ref()?.resources.as_ref()
}

/// Quota, period and weight, where 0 and less is none.
pub(super) fn cpu(resources: Option<&LinuxContainerResources>) -> CpuSpec {
    let Some(all) = resources else { return CpuSpec::default() };
    CpuSpec {
        quota_us: positive(all.cpu_quota),
        period_us: positive(all.cpu_period).unwrap_or(PERIOD_US),
        weight: positive(all.cpu_shares).unwrap_or(WEIGHT),
    }
}

fn positive(number: i64) -> Option<u64> {
    u64::try_from(number).ok().filter(|number| *number > 0)
}

#[cfg(test)]
mod tests {
    use coracle_cri::v1::{ContainerMetadata, LinuxContainerConfig, LinuxPodSandboxConfig};
    use expect_test::{Expect, expect};

    use super::*;

    /// `quota=… period=… shares=… memory=…` of the container, the same with `pod-` and `over-` in front of the sandbox
    /// and its overhead, `NAME:VALUE` for an annotation.
    fn parse(text: &str) -> (PodSandboxConfig, ContainerConfig) {
        let mut sandbox = PodSandboxConfig::default();
        let (mut own, mut pod, mut over) = (None, None, None);
        for word in text.split_whitespace() {
            let Some((key, value)) = word.split_once('=') else {
                let (name, value) = word.split_once(':').expect("an annotation");
                sandbox.annotations.insert(format!("coracle.dev/{name}"), value.to_owned());
                continue;
            };
            let (of, key) = match (key.strip_prefix("pod-"), key.strip_prefix("over-")) {
                (Some(key), _) => (&mut pod, key),
                (_, Some(key)) => (&mut over, key),
                (None, None) => (&mut own, key),
            };
            let of: &mut LinuxContainerResources = of.get_or_insert_default();
            let value = value.parse().expect("a number");
            match key {
                "quota" => of.cpu_quota = value,
                "period" => of.cpu_period = value,
                "shares" => of.cpu_shares = value,
                "memory" => of.memory_limit_in_bytes = value,
                other => panic!("{other:?}"),
            }
        }
        sandbox.linux = Some(LinuxPodSandboxConfig { resources: pod, overhead: over, ..Default::default() });
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: "main".to_owned(), attempt: 0 }),
            linux: Some(LinuxContainerConfig { resources: own, security_context: None }),
            ..ContainerConfig::default()
        };
        (sandbox, config)
    }

    fn check(lines: &[&str], show: impl Fn(&PodSandboxConfig, &ContainerConfig) -> String, expected: Expect) {
        let shown: String = lines
            .iter()
            .map(|line| {
                let (sandbox, config) = parse(line);
                format!("{line}\n  {}\n", show(&sandbox, &config))
            })
            .collect();
        expected.assert_eq(&shown);
    }

    #[test]
    fn processor_limits_and_weights() {
        check(
            &["", "quota=20000", "quota=50000 period=50000 shares=512", "quota=-1 shares=2"],
            |sandbox, config| match plan_limits(sandbox, config) {
                Ok(limits) => format!("{:?}", limits.cpu),
                Err(why) => why,
            },
            expect![[r#"

                  CpuSpec { quota_us: None, period_us: 100000, weight: 1024 }
                quota=20000
                  CpuSpec { quota_us: Some(20000), period_us: 100000, weight: 1024 }
                quota=50000 period=50000 shares=512
                  CpuSpec { quota_us: Some(50000), period_us: 50000, weight: 512 }
                quota=-1 shares=2
                  CpuSpec { quota_us: None, period_us: 100000, weight: 2 }
            "#]],
        );
    }

    #[test]
    fn annotations_are_read_and_refused_in_words() {
        check(
            &[
                "max-sockets:5 max-open-files:6 max-dns-lookups.main:7 max-dns-lookups:8 max-host-objects:900",
                "at-memory-limit:refuse",
                "at-memory-limit:swap",
                "log-bytes-per-second:1000 log-burst-bytes:2000 log-line-bytes:256",
                "log-line-bytes:1",
                "max-sockets:many",
            ],
            |sandbox, config| match plan_limits(sandbox, config) {
                Ok(all) => format!(
                    "sockets {} files {} lookups {} objects {} {:?} {:?}",
                    all.sockets, all.files, all.lookups, all.host_objects, all.at_memory_limit, all.log
                ),
                Err(why) => format!("refused: {why}"),
            },
            expect![[r#"
                max-sockets:5 max-open-files:6 max-dns-lookups.main:7 max-dns-lookups:8 max-host-objects:900
                  sockets 5 files 6 lookups 7 objects 900 Kill LogLimits { bytes_per_second: 8388608, burst_bytes: 33554432, line_bytes: 16384 }
                at-memory-limit:refuse
                  sockets 2048 files 1024 lookups 64 objects 10000 Refuse LogLimits { bytes_per_second: 8388608, burst_bytes: 33554432, line_bytes: 16384 }
                at-memory-limit:swap
                  refused: annotation coracle.dev/at-memory-limit: "swap": must be kill (the container ends as OOMKilled) or refuse (memory.grow gives -1)
                log-bytes-per-second:1000 log-burst-bytes:2000 log-line-bytes:256
                  sockets 2048 files 1024 lookups 64 objects 10000 Kill LogLimits { bytes_per_second: 1000, burst_bytes: 2000, line_bytes: 256 }
                log-line-bytes:1
                  refused: annotation coracle.dev/log-line-bytes: "1" is no number from 128 to 65536
                max-sockets:many
                  refused: annotation coracle.dev/max-sockets: "many" is no number from 0 to 1000000
            "#]],
        );
    }

    #[test]
    fn a_pods_limits_bind_containers_that_have_their_own() {
        check(
            &[
                "quota=10000 memory=100",
                "quota=10000 memory=100 pod-quota=30000 pod-memory=300",
                "quota=10000 pod-quota=30000 pod-memory=300",
                "pod-quota=30000 pod-memory=300",
                "memory=100 pod-memory=300 over-memory=50",
                "quota=10000 pod-quota=30000 over-quota=5000 over-period=50000",
            ],
            |sandbox, config| match plan_pod("p", sandbox, config) {
                Some(PodSpec { limits, cpu, memory }) => {
                    let PodLimits { cpu_quota_us, memory_bytes, .. } = limits;
                    format!("cpu {cpu} {cpu_quota_us:?} memory {memory} {memory_bytes:?}")
                }
                None => "not bound".to_owned(),
            },
            expect![[r#"
                quota=10000 memory=100
                  cpu true None memory true None
                quota=10000 memory=100 pod-quota=30000 pod-memory=300
                  cpu true Some(30000) memory true Some(300)
                quota=10000 pod-quota=30000 pod-memory=300
                  cpu true Some(30000) memory false Some(300)
                pod-quota=30000 pod-memory=300
                  not bound
                memory=100 pod-memory=300 over-memory=50
                  cpu false None memory true Some(350)
                quota=10000 pod-quota=30000 over-quota=5000 over-period=50000
                  cpu true Some(40000) memory false None
            "#]],
        );
    }

    #[test]
    fn an_update_leaves_what_it_does_not_name() {
        let mut all = LinuxContainerResources { cpu_quota: 10, memory_limit_in_bytes: 20, ..Default::default() };
        update(&mut all, &LinuxContainerResources { cpu_quota: -1, cpu_shares: 5, ..Default::default() });
        assert_eq!((all.cpu_quota, all.cpu_shares, all.memory_limit_in_bytes), (-1, 5, 20));
    }
}
