//! What containers use, as CRI's statistics; and their resources changed while they run.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use coracle_cri::Status;
use coracle_cri::v1::*;
use parking_lot::Mutex;

use super::containers::order_failed;
use super::convert;
use super::limits;
use super::pods::{Pods, lookup_failed, record_failed};
use super::records::Phase;
use super::runtime_service::Front;
use super::scratch;
use super::state::{Container as KnownContainer, State};
use crate::clock::UnixNanos;
use crate::wire::{self, Command, GuestStats};

/// Looks closer together than this say nothing of how fast something is used.
const WINDOW_NS: i64 = 500_000_000;

/// From processor time used to how much is being used, between one look and the next.
#[derive(Debug, Default)]
pub(super) struct Meter(Mutex<HashMap<String, Sample>>);

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: UnixNanos,
    cpu_ns: u64,
    nano_cores: u64,
}

impl Meter {
    /// Billionths of a processor since the last look; since its start for one that was never looked at.
    fn nano_cores(&self, id: &str, started_at: UnixNanos, now: UnixNanos, cpu_ns: u64) -> u64 {
        let mut samples = self.0.lock();
        let last = samples.get(id).copied().unwrap_or(Sample { at: started_at, cpu_ns: 0, nano_cores: 0 });
        let passed = now.saturating_sub(last.at);
        if passed < WINDOW_NS {
            return last.nano_cores;
        }
        let used = u128::from(cpu_ns.saturating_sub(last.cpu_ns));
        let nano_cores = used * 1_000_000_000 / u128::from(passed.unsigned_abs());
        let nano_cores = u64::try_from(nano_cores).unwrap_or(u64::MAX);
        samples.insert(id.to_owned(), Sample { at: now, cpu_ns, nano_cores });
        nano_cores
    }

    fn retain(&self, running: &HashMap<String, GuestStats>) {
        self.0.lock().retain(|id, _| running.contains_key(id));
    }
}

impl Front {
    /// What running guests use, as their workers count it.
    async fn usage(&self) -> HashMap<String, GuestStats> {
        let workers = self.0.workers.all();
        let asked = workers.iter().map(|link| link.order(Command::Stats, &[]));
        let mut usage = HashMap::new();
        for answer in futures::future::join_all(asked).await {
            match answer {
                Ok(wire::Answer::Stats(stats)) => {
                    usage.extend(stats.into_iter().map(|stats| (stats.id.clone(), stats)));
                }
                Ok(wire::Answer::Nothing | wire::Answer::Descriptor | wire::Answer::Full(_)) => {}
                Err(error) => tracing::warn!(%error, "a worker gives no usage"),
            }
        }
        self.0.meter.retain(&usage);
        usage
    }

    pub(super) async fn stats(&self, filter: &ContainerStatsFilter) -> Vec<ContainerStats> {
        let usage = self.usage().await;
        let state = self.0.state.lock();
        let matching = state.containers.values().filter(|container| {
            let record = &container.record;
            record.id.starts_with(&filter.id)
                && record.sandbox.starts_with(&filter.pod_sandbox_id)
                && convert::matches(&filter.label_selector, || record.config.read().labels)
        });
        matching.filter_map(|container| self.container_stats_of(container, usage.get(&container.record.id)?)).collect()
    }

    /// None for one that does not run.
    fn container_stats_of(&self, container: &KnownContainer, used: &GuestStats) -> Option<ContainerStats> {
        let record = &container.record;
        let started_at = match record.phase {
            Phase::Running { started_at } => started_at,
            Phase::Created | Phase::Exited(_) => return None,
        };
        let now = self.0.config.clock.now();
        let nano_cores = self.0.meter.nano_cores(&record.id, started_at, now, used.cpu_ns);
        let config = record.config.read();
        let limit = config.linux.as_ref().and_then(|linux| linux.resources.as_ref());
        let limit = limit.and_then(|all| u64::try_from(all.memory_limit_in_bytes).ok()).filter(|bytes| *bytes > 0);
        Some(ContainerStats {
            attributes: Some(ContainerAttributes {
                id: record.id.clone(),
                metadata: config.metadata,
                labels: config.labels,
                annotations: config.annotations,
            }),
            cpu: Some(cpu(now, used.cpu_ns, nano_cores)),
            memory: Some(memory(now, used.memory_bytes, limit)),
            writable_layer: Some(disk(now, &self.0.scratch(&record.id))),
            swap: None,
        })
    }

    pub(super) async fn pod_stats(&self, filter: &PodSandboxStatsFilter) -> Vec<PodSandboxStats> {
        let usage = self.usage().await;
        let state = self.0.state.lock();
        let now = self.0.config.clock.now();
        let matching = state.sandboxes.values().filter(|sandbox| {
            sandbox.ready
                && sandbox.id.starts_with(&filter.id)
                && convert::matches(&filter.label_selector, || sandbox.config.read().labels)
        });
        matching
            .map(|sandbox| {
                let PodSandboxConfig { metadata, labels, annotations, .. } = sandbox.config.read();
                let id = sandbox.id.clone();
                PodSandboxStats {
                    attributes: Some(PodSandboxAttributes { id, metadata, labels, annotations }),
                    linux: Some(self.sum(&state, &sandbox.id, &usage, now)),
                }
            })
            .collect()
    }

    /// A sandbox is nothing but its containers.
    fn sum(
        &self,
        state: &State,
        sandbox: &str,
        usage: &HashMap<String, GuestStats>,
        now: UnixNanos,
    ) -> LinuxPodSandboxStats {
        let (mut all, mut nano_cores) = (GuestStats::default(), 0_u64);
        let mut containers = Vec::new();
        for container in state.containers_of(sandbox) {
            let Some(used) = usage.get(&container.record.id) else { continue };
            let Some(stats) = self.container_stats_of(container, used) else { continue };
            all.cpu_ns += used.cpu_ns;
            all.memory_bytes += used.memory_bytes;
            all.received_bytes += used.received_bytes;
            all.sent_bytes += used.sent_bytes;
            nano_cores += stats.cpu.as_ref().and_then(|cpu| cpu.usage_nano_cores).map_or(0, |cores| cores.value);
            containers.push(stats);
        }
        let interface = NetworkInterfaceUsage {
            name: "eth0".to_owned(),
            rx_bytes: value(all.received_bytes),
            rx_errors: value(0),
            tx_bytes: value(all.sent_bytes),
            tx_errors: value(0),
        };
        LinuxPodSandboxStats {
            cpu: Some(cpu(now, all.cpu_ns, nano_cores)),
            memory: Some(memory(now, all.memory_bytes, None)),
            network: Some(NetworkUsage {
                timestamp: now,
                default_interface: Some(interface.clone()),
                interfaces: vec![interface],
            }),
            process: None,
            containers,
        }
    }
}

impl Pods {
    /// New limits for a container, running or not.
    pub(super) async fn set_resources(&self, id: &str, news: &LinuxContainerResources) -> Result<(), Status> {
        let (id, turn) = self.turn_of(id)?;
        // It may be on its way to another worker, with the limits that it has now.
        let _turn = turn.lock().await;
        let (generation, orders) = {
            let mut state = self.state.lock();
            let id = state.container_id(&id).map_err(lookup_failed)?;
            let container = state.containers.get_mut(&id).ok_or_else(|| Status::not_found("container"))?;
            let (bytes, cpu) = container.record.config.edit(|config| {
                let resources = config.linux.get_or_insert_default().resources.get_or_insert_default();
                limits::update(resources, news);
                let bytes = u64::try_from(resources.memory_limit_in_bytes).ok().filter(|bytes| *bytes > 0);
                (Some(bytes.unwrap_or(self.default_memory_bytes)), limits::cpu(Some(resources)))
            });
            self.records.save_container(&container.record).map_err(record_failed)?;
            let orders = [Command::SetMemoryLimit { id: id.clone(), bytes }, Command::SetCpu { id, cpu }];
            (container.generation, orders)
        };
        let Some(link) = self.workers.get(generation) else { return Ok(()) };
        self.limit_worker_of(&link, &id);
        for order in orders {
            link.order(order, &[]).await.map_err(order_failed)?;
        }
        Ok(())
    }

    pub(super) async fn set_pod_resources(
        &self,
        id: &str,
        overhead: Option<LinuxContainerResources>,
        resources: Option<LinuxContainerResources>,
    ) -> Result<(), Status> {
        let (limits, running) = {
            let mut state = self.state.lock();
            let id = state.sandbox_id(id).map_err(lookup_failed)?;
            let sandbox = state.sandboxes.get_mut(&id).ok_or_else(|| Status::not_found("sandbox"))?;
            sandbox.config.edit(|config| {
                let linux = config.linux.get_or_insert_default();
                for (old, new) in [(&mut linux.overhead, overhead), (&mut linux.resources, resources)] {
                    if let Some(new) = new {
                        limits::update(old.get_or_insert_default(), &new);
                    }
                }
            });
            self.records.save_sandbox(sandbox).map_err(record_failed)?;
            let limits = limits::pod_limits(&id, &sandbox.config.read());
            let containers = state.containers_of(&id).into_iter();
            let running = containers.filter_map(|container| Some((container.generation?, container.record.id.clone())));
            (limits, running.collect::<BTreeMap<u64, String>>())
        };
        // One worker, but while a worker of another build is left. Without any nothing runs that an order could be for.
        for (generation, container) in running {
            let Some(link) = self.workers.get(Some(generation)) else { continue };
            self.limit_worker_of(&link, &container);
            if let Some(limits) = limits.clone() {
                link.order(Command::SetPod(limits), &[]).await.map_err(order_failed)?;
            }
        }
        Ok(())
    }
}

fn value(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

fn cpu(timestamp: i64, ns: u64, nano_cores: u64) -> CpuUsage {
    CpuUsage { timestamp, usage_core_nano_seconds: value(ns), usage_nano_cores: value(nano_cores) }
}

/// A guest's memory is what it has asked for: how much of it the kernel has had to provide is not told apart.
fn memory(timestamp: i64, bytes: u64, limit: Option<u64>) -> MemoryUsage {
    MemoryUsage {
        timestamp,
        working_set_bytes: value(bytes),
        usage_bytes: value(bytes),
        rss_bytes: value(bytes),
        available_bytes: limit.and_then(|limit| value(limit.saturating_sub(bytes))),
        ..MemoryUsage::default()
    }
}

/// What was made for a container beside its image, volumes and log.
fn disk(timestamp: i64, dir: &Path) -> FilesystemUsage {
    let taken = scratch::measure(dir);
    FilesystemUsage {
        timestamp,
        fs_id: Some(FilesystemIdentifier { mountpoint: dir.to_string_lossy().into_owned() }),
        used_bytes: value(taken.bytes),
        inodes_used: value(taken.inodes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_being_used_is_what_was_used_since_the_last_look() {
        const SECOND: i64 = 1_000_000_000;
        let meter = Meter::default();
        let look = |at: i64, cpu_ns: u64| meter.nano_cores("c", 10 * SECOND, at, cpu_ns);
        // Since its start: a quarter of a processor for 4 s.
        assert_eq!(look(14 * SECOND, 1_000_000_000), 250_000_000);
        assert_eq!(look(16 * SECOND, 3_000_000_000), 1_000_000_000);
        // Too soon to say anything else.
        assert_eq!(look(16 * SECOND + 1000, 3_000_001_000), 1_000_000_000);
        assert_eq!(look(26 * SECOND, 3_000_000_000), 0);
        meter.retain(&HashMap::new());
        assert_eq!(look(30 * SECOND, 4_000_000_000), 200_000_000, "forgotten, so since its start again");
    }
}
