//! What containers use, as CRI's statistics; and their resources changed while they run.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use coracle_cri::Status;
use coracle_cri::v1::*;
use parking_lot::Mutex;

use super::containers::order_failed;
use super::convert;
use super::limits;
use super::link::Link;
use super::pods::{Pods, lookup_failed, record_failed};
use super::records::{Phase, SandboxRecord};
use super::runtime_service::Front;
use super::scratch;
use super::state::{Container as KnownContainer, State};
use crate::clock::UnixNanos;
use crate::wire::{self, Command, GuestStats};

/// A worker answers at once; what one that does not said before is soon enough for whoever asks, who has little patience.
const PATIENCE: Duration = Duration::from_secs(3);

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

    fn retain(&self, running: impl Fn(&str) -> bool) {
        self.0.lock().retain(|id, _| running(id));
    }
}

/// What workers last said of their containers. It stands until they say something else.
#[derive(Debug, Default)]
pub(super) struct Heard(Mutex<HashMap<String, Word>>);

/// What one container used.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Word {
    /// The worker that says so.
    generation: u64,
    at: UnixNanos,
    used: GuestStats,
}

impl Heard {
    /// A worker is believed of containers that it runs, by `runs_in`: somebody's guest may have taken it over.
    fn hear(&self, generation: u64, at: UnixNanos, said: Vec<GuestStats>, runs_in: impl Fn(&str) -> Option<u64>) {
        let mut all = self.0.lock();
        all.retain(|id, word| runs_in(id) == Some(word.generation));
        for mut used in said {
            let id = std::mem::take(&mut used.id);
            if runs_in(&id) == Some(generation) {
                all.insert(id, Word { generation, at, used });
            }
        }
    }

    /// Of those containers that still run where they did.
    fn of(&self, running: &BTreeMap<String, u64>) -> BTreeMap<String, Word> {
        let all = self.0.lock();
        let known = running.iter().filter_map(|(id, generation)| {
            let word = all.get(id).filter(|word| word.generation == *generation)?;
            Some((id.clone(), word.clone()))
        });
        known.collect()
    }
}

/// The containers of these that run, and the worker of each.
fn running<'a>(containers: impl IntoIterator<Item = &'a KnownContainer>) -> BTreeMap<String, u64> {
    let running = containers.into_iter().filter(|container| container.is_running());
    running.filter_map(|container| Some((container.record.id.clone(), container.generation?))).collect()
}

impl Front {
    /// What running guests use, as their workers count it.
    async fn usage(&self, running: &BTreeMap<String, u64>) -> BTreeMap<String, Word> {
        let workers: BTreeSet<u64> = running.values().copied().collect();
        let asked = workers.into_iter().filter_map(|generation| self.0.workers.get(Some(generation))).map(|link| {
            let pods = self.0.clone();
            self.0.tasks.spawn(async move { pods.ask_usage(&link).await })
        });
        // An answer that comes later is for those who ask then.
        let _ = tokio::time::timeout(PATIENCE, futures::future::join_all(asked)).await;
        self.0.heard.of(running)
    }

    pub(super) async fn stats(&self, filter: &ContainerStatsFilter) -> Vec<ContainerStats> {
        let running = {
            let state = self.0.state.lock();
            running(state.containers.values().filter(|container| {
                let record = &container.record;
                record.id.starts_with(&filter.id)
                    && record.sandbox.starts_with(&filter.pod_sandbox_id)
                    && convert::matches(&filter.label_selector, || record.config.read().labels)
            }))
        };
        let usage = self.usage(&running).await;
        let mut stats: Vec<ContainerStats> = {
            let state = self.0.state.lock();
            let known = usage.iter().filter_map(|(id, word)| Some((state.containers.get(id)?, word)));
            known.filter_map(|(container, word)| self.container_stats_of(container, word)).collect()
        };
        self.measure(stats.iter_mut().collect()).await;
        stats
    }

    /// Notes what disk containers take: on a thread beside, and with the state free for others, as the disk may be slow.
    async fn measure(&self, stats: Vec<&mut ContainerStats>) {
        let id = |stats: &ContainerStats| stats.attributes.as_ref().map_or_else(String::new, |all| all.id.clone());
        let dirs: Vec<PathBuf> = stats.iter().map(|stats| self.0.scratch(&id(stats))).collect();
        let now = self.0.config.clock.now();
        let measuring = move || dirs.iter().map(|dir| disk(now, dir)).collect::<Vec<_>>();
        match tokio::task::spawn_blocking(measuring).await {
            Ok(measured) => {
                for (stats, disk) in stats.into_iter().zip(measured) {
                    stats.writable_layer = Some(disk);
                }
            }
            Err(error) => tracing::error!(%error, "what containers take of the disk is not known"),
        }
    }

    /// None for one that does not run.
    fn container_stats_of(&self, container: &KnownContainer, word: &Word) -> Option<ContainerStats> {
        let record = &container.record;
        let started_at = match record.phase {
            Phase::Running { started_at } => started_at,
            Phase::Created | Phase::Exited(_) => return None,
        };
        let Word { at, used, .. } = word;
        let nano_cores = self.0.meter.nano_cores(&record.id, started_at, *at, used.cpu_ns);
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
            cpu: Some(cpu(*at, used.cpu_ns, nano_cores)),
            memory: Some(memory(*at, used.memory_bytes, limit)),
            writable_layer: None,
            swap: None,
        })
    }

    pub(super) async fn pod_stats(&self, filter: &PodSandboxStatsFilter) -> Vec<PodSandboxStats> {
        let (matching, running) = {
            let state = self.0.state.lock();
            let matching = state.sandboxes.values().filter(|sandbox| {
                sandbox.ready
                    && sandbox.id.starts_with(&filter.id)
                    && convert::matches(&filter.label_selector, || sandbox.config.read().labels)
            });
            let matching: Vec<String> = matching.map(|sandbox| sandbox.id.clone()).collect();
            let running = running(matching.iter().flat_map(|id| state.containers_of(id)));
            (matching, running)
        };
        let usage = self.usage(&running).await;
        let mut stats: Vec<PodSandboxStats> = {
            let state = self.0.state.lock();
            let still = matching.iter().filter_map(|id| state.sandboxes.get(id).filter(|sandbox| sandbox.ready));
            let now = self.0.config.clock.now();
            let pod = |sandbox: &SandboxRecord| {
                let PodSandboxConfig { metadata, labels, annotations, .. } = sandbox.config.read();
                let id = sandbox.id.clone();
                PodSandboxStats {
                    attributes: Some(PodSandboxAttributes { id, metadata, labels, annotations }),
                    linux: Some(self.sum(&state, &sandbox.id, &usage, now)),
                }
            };
            still.map(pod).collect()
        };
        self.measure(stats.iter_mut().flat_map(|pod| &mut pod.linux).flat_map(|linux| &mut linux.containers).collect())
            .await;
        stats
    }

    /// A sandbox is nothing but its containers.
    fn sum(
        &self,
        state: &State,
        sandbox: &str,
        usage: &BTreeMap<String, Word>,
        now: UnixNanos,
    ) -> LinuxPodSandboxStats {
        let (mut all, mut nano_cores) = (GuestStats::default(), 0_u64);
        let mut containers = Vec::new();
        let words = state.containers_of(sandbox).into_iter().filter_map(|one| Some((one, usage.get(&one.record.id)?)));
        // As old as the oldest of what it is the sum of.
        let at = words.clone().map(|(_, word)| word.at).min().unwrap_or(now);
        for (container, word) in words {
            let Some(stats) = self.container_stats_of(container, word) else { continue };
            add(&mut all, &word.used);
            let cores = stats.cpu.as_ref().and_then(|cpu| cpu.usage_nano_cores).map_or(0, |cores| cores.value);
            nano_cores = nano_cores.saturating_add(cores);
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
            cpu: Some(cpu(at, all.cpu_ns, nano_cores)),
            memory: Some(memory(at, all.memory_bytes, None)),
            network: Some(NetworkUsage {
                timestamp: at,
                default_interface: Some(interface.clone()),
                interfaces: vec![interface],
            }),
            process: None,
            containers,
        }
    }
}

impl Pods {
    async fn ask_usage(&self, link: &Link) {
        let said = match link.order(Command::Stats, &[]).await {
            Ok(wire::Answer::Stats(said)) => said,
            Ok(wire::Answer::Nothing | wire::Answer::Descriptor | wire::Answer::Full(_)) => return,
            Err(error) => return tracing::warn!(worker = link.record.id, %error, "a worker gives no usage"),
        };
        let at = self.config.clock.now();
        let state = self.state.lock();
        let runs_in = |id: &str| state.containers.get(id).and_then(|container| container.generation);
        self.heard.hear(link.generation, at, said, runs_in);
        self.meter.retain(|id| runs_in(id).is_some());
    }

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
            let running = containers.flat_map(|container| {
                let workers = [container.generation, container.moving].into_iter().flatten();
                workers.map(|generation| (generation, container.record.id.clone()))
            });
            (limits, running.collect::<BTreeMap<u64, String>>())
        };
        // One worker, but while a worker of another build is left. Without any nothing runs that an order could be for.
        for (generation, container) in running {
            let Some(link) = self.workers.get(Some(generation)) else { continue };
            self.limit_worker_of(&link, &container);
            link.order(Command::SetPod(limits.clone()), &[]).await.map_err(order_failed)?;
        }
        Ok(())
    }
}

/// Figures are the workers' word, which may be any.
fn add(all: &mut GuestStats, used: &GuestStats) {
    let GuestStats { id: _, memory_bytes, cpu_ns, received_bytes, sent_bytes } = used;
    for (sum, more) in [
        (&mut all.memory_bytes, memory_bytes),
        (&mut all.cpu_ns, cpu_ns),
        (&mut all.received_bytes, received_bytes),
        (&mut all.sent_bytes, sent_bytes),
    ] {
        *sum = sum.saturating_add(*more);
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
        meter.retain(|_| false);
        assert_eq!(look(30 * SECOND, 4_000_000_000), 200_000_000, "forgotten, so since its start again");
    }

    fn said(figures: &[(&str, u64)]) -> Vec<GuestStats> {
        let of = |(id, memory_bytes): &(&str, u64)| GuestStats {
            id: (*id).to_owned(),
            memory_bytes: *memory_bytes,
            ..GuestStats::default()
        };
        figures.iter().map(of).collect()
    }

    fn known(heard: &Heard, running: &[(&str, u64)]) -> Vec<(String, u64)> {
        let running = running.iter().map(|(id, generation)| ((*id).to_owned(), *generation)).collect();
        heard.of(&running).into_iter().map(|(id, word)| (id, word.used.memory_bytes)).collect()
    }

    #[test]
    fn a_worker_is_believed_of_what_it_runs() {
        let heard = Heard::default();
        let runs_in = |id: &str| HashMap::from([("a", 1), ("b", 2)]).get(id).copied();
        heard.hear(2, 0, said(&[("b", 20)]), runs_in);
        heard.hear(1, 0, said(&[("a", 10), ("b", u64::MAX), ("nobody", 1)]), runs_in);
        let now = [("a", 1), ("b", 2), ("nobody", 1)];
        assert_eq!(known(&heard, &now), [("a".to_owned(), 10), ("b".to_owned(), 20)]);
        // It says nothing more, and what it said stands.
        heard.hear(2, 1, said(&[("b", 21)]), runs_in);
        assert_eq!(known(&heard, &now), [("a".to_owned(), 10), ("b".to_owned(), 21)]);
        assert_eq!(known(&heard, &[("a", 3)]), [], "it is elsewhere now");
        heard.hear(3, 2, said(&[]), |_| None);
        assert!(heard.0.lock().is_empty(), "who does not run is forgotten");
    }

    #[test]
    fn figures_without_measure_are_no_bugs() {
        let mut all = GuestStats { cpu_ns: 1, ..GuestStats::default() };
        let most = GuestStats { cpu_ns: u64::MAX, memory_bytes: u64::MAX, sent_bytes: 7, ..GuestStats::default() };
        add(&mut all, &most);
        add(&mut all, &most);
        let sums = (all.cpu_ns, all.memory_bytes, all.received_bytes, all.sent_bytes);
        assert_eq!(sums, (u64::MAX, u64::MAX, 0, 14));
    }
}
