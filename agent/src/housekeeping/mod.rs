//! Keeps the host from running full: removes images that nobody uses, says when memory, disk or processes run out, and
//! then ends pods, one at a time.
//!
//! Owns when to look and what to do about it. Must not know: how a pod is ended (its worker is told).

mod config;
mod eviction;
mod gauge;
mod images;
mod thresholds;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::Pod;
use coracle_client::events::EventType;
use coracle_client::watched;
use coracle_cri::v1::Image;
use k8s_openapi::api::core::v1::ObjectReference;
use tokio::time::sleep;

pub use config::{HousekeepingArgs, HousekeepingConfig};
pub use eviction::Pressure;
pub(crate) use eviction::refusal;
pub use gauge::{Gauge, HostGauge, Level, Levels, NoGauge};
pub use thresholds::{Threshold, Thresholds};

use crate::mailbox::Eviction;
use crate::node::NodeState;
use crate::pod::context::{PodContext, Shared};
use crate::pods::Pods;
use crate::runtime::{CriError, Runtime};

/// Kubelet looks every ten seconds; that is soon enough only where little is left.
const SOON: Duration = Duration::from_secs(10);
const SELDOM: Duration = Duration::from_secs(60);
/// So close to a threshold, as a share of what there is, little is left.
const LITTLE: f64 = 0.2;
const IMAGES: Duration = Duration::from_secs(300);

/// Looks after the host.
pub(crate) struct Housekeeper {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pods: Arc<Pods>,
    pub(crate) gauge: Arc<dyn Gauge>,
    pub(crate) state: watched::Sender<NodeState>,
}

#[derive(Default)]
struct Memory {
    conditions: eviction::Conditions,
    images: BTreeMap<usize, images::Records>,
    images_at: Option<Duration>,
    /// The last collection of images failed, which is told only the second time.
    failed: bool,
}

impl Housekeeper {
    pub(crate) async fn run(&self) {
        let mut memory = Memory::default();
        loop {
            let wait = self.look(&mut memory).await;
            sleep(wait).await;
        }
    }

    /// One look, and what follows from it. Gives the time until the next.
    async fn look(&self, memory: &mut Memory) -> Duration {
        let now = self.shared.start.elapsed();
        let levels = match self.gauge.levels(&self.shared.config.data_dir) {
            Ok(Some(levels)) => levels,
            Ok(None) => return IMAGES,
            Err(error) => {
                tracing::warn!(%error, "the host cannot be measured");
                return SELDOM;
            }
        };
        let shortages = self.shortages(&levels);
        self.tell(memory.conditions.observe(&shortages, now));
        if memory.images_at.is_none_or(|at| now.saturating_sub(at) >= IMAGES) {
            memory.images_at = Some(now);
            self.collect_images(memory, now).await;
        }
        let limited = self.enforce_limits();
        if let Some(shortage) = shortages.first() {
            self.relieve(shortage, memory, now).await;
        }
        if limited || !shortages.is_empty() || eviction::slack(&levels, &self.config().eviction_hard) < LITTLE {
            SOON
        } else {
            SELDOM
        }
    }

    fn shortages(&self, levels: &Levels) -> Vec<eviction::Shortage> {
        eviction::shortages(levels, &self.config().eviction_hard)
    }

    fn config(&self) -> &HousekeepingConfig {
        &self.shared.config.housekeeping
    }

    /// The node's conditions, and an event for each that changes.
    fn tell(&self, pressures: Vec<Pressure>) {
        let before = self.state.borrow().pressures.clone();
        if before == pressures {
            return;
        }
        for pressure in Pressure::ALL {
            let is = pressures.contains(&pressure);
            if is != before.contains(&pressure) {
                let (reason, _) = pressure.words(is);
                let reason = reason.trim_start_matches("Kubelet");
                let name = &self.shared.config.node_name;
                self.event(
                    EventType::Normal,
                    &format!("Node{reason}"),
                    format!("Node {name} status is now: Node{reason}"),
                );
            }
        }
        self.state.send_modify(|state| state.pressures = pressures);
    }

    fn event(&self, kind: EventType, reason: &str, message: String) {
        let name = Some(self.shared.config.node_name.to_string());
        let node =
            ObjectReference { kind: Some("Node".to_owned()), uid: name.clone(), name, ..ObjectReference::default() };
        self.shared.recorder.event(&node, kind, reason, message);
    }

    /// Frees what can be freed without harm; if that is not enough, one pod goes.
    async fn relieve(&self, shortage: &eviction::Shortage, memory: &mut Memory, now: Duration) {
        let text = format!("Attempting to reclaim {}", shortage.resource);
        self.event(EventType::Warning, "EvictionThresholdMet", text);
        if shortage.pressure == Pressure::Disk {
            for (index, runtime) in self.shared.runtimes.all().iter().enumerate() {
                if let Err(error) = self.free(runtime, u64::MAX, memory.images.entry(index).or_default(), now).await {
                    tracing::debug!(%error, "images cannot be removed");
                }
            }
            let after = self.gauge.levels(&self.shared.config.data_dir).ok().flatten();
            if after.is_some_and(|levels| !self.shortages(&levels).iter().any(|s| s.resource == shortage.resource)) {
                return;
            }
        }
        let contexts = self.pods.evictable();
        let usage = self.usage(shortage, &contexts).await;
        let pods: Vec<Arc<Pod>> = contexts.iter().map(|context| context.view.lock().pod.clone()).collect();
        let candidates: Vec<_> =
            pods.iter().zip(&usage).map(|(pod, usage)| eviction::Candidate { pod, usage: usage.clone() }).collect();
        let Some(victim) = eviction::victim(shortage, &candidates) else {
            let (available, threshold) = (shortage.amount(shortage.available), shortage.amount(shortage.threshold));
            let what =
                "there is too little left for pods to start, and none that could go (--eviction-hard says how little)";
            return tracing::warn!(resource = shortage.resource, available, threshold, "{what}");
        };
        let place = candidates.iter().position(|candidate| std::ptr::eq(candidate, victim));
        let context = &contexts[place.expect("the victim is one of the candidates")];
        self.evict(context, victim.pod, eviction::message(shortage, victim));
    }

    fn evict(&self, context: &PodContext, pod: &Pod, message: String) {
        tracing::warn!(pod = %context.key, message, "the pod is evicted");
        let reference = context.reference(pod, None);
        self.shared.recorder.event(&reference, EventType::Warning, "Evicted", message.clone());
        context.mailbox.put(|mail| mail.eviction = Some(Eviction { message, disrupted: true }));
    }

    /// What each pod uses of it, by container.
    async fn usage(&self, shortage: &eviction::Shortage, contexts: &[Arc<PodContext>]) -> Vec<BTreeMap<String, u64>> {
        if shortage.pressure != Pressure::Memory {
            let of = |context: &Arc<PodContext>| {
                let dirs = &context.dirs;
                let bytes = gauge::folder_bytes(&dirs.root) + gauge::folder_bytes(&dirs.logs);
                BTreeMap::from([(String::new(), bytes)])
            };
            return contexts.iter().map(of).collect();
        }
        let mut found: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        for runtime in self.shared.runtimes.all() {
            let stats = match runtime.container_stats().await {
                Ok(stats) => stats,
                Err(error) => {
                    tracing::warn!(runtime = runtime.endpoint().name(), %error, "containers cannot be measured");
                    continue;
                }
            };
            for stats in stats {
                let attributes = stats.attributes.unwrap_or_default();
                let uid = attributes.labels.get(crate::runtime::POD_UID).cloned().unwrap_or_default();
                let used = stats.memory.and_then(|memory| memory.working_set_bytes).map_or(0, |bytes| bytes.value);
                let name = attributes.metadata.unwrap_or_default().name;
                found.entry(uid).or_default().insert(name, used);
            }
        }
        contexts.iter().map(|context| found.remove(&*context.uid).unwrap_or_default()).collect()
    }

    /// Ends pods whose files are more than they may be. True if there are any with such a limit.
    fn enforce_limits(&self) -> bool {
        let mut any = false;
        for context in self.pods.evictable() {
            let pod = context.view.lock().pod.clone();
            if !eviction::has_limit(&pod) {
                continue;
            }
            any = true;
            let dirs = &context.dirs;
            let over = eviction::beyond_limit(&pod, |volume| match volume {
                "" => gauge::folder_bytes(&dirs.root) + gauge::folder_bytes(&dirs.logs),
                volume => gauge::folder_bytes(&dirs.empty_dir(volume)),
            });
            if let Some(message) = over {
                self.evict(&context, &pod, message);
            }
        }
        any
    }

    async fn collect_images(&self, memory: &mut Memory, now: Duration) {
        let mut fault = None;
        for (index, runtime) in self.shared.runtimes.all().iter().enumerate() {
            if runtime.info().is_none() {
                continue;
            }
            let records = memory.images.entry(index).or_default();
            match self.collect_from(runtime, records, now).await {
                Ok(()) => {}
                Err(message) => fault = Some(message),
            }
        }
        if let Some(message) = &fault
            && memory.failed
        {
            self.event(EventType::Warning, "ImageGCFailed", message.clone());
        }
        memory.failed = fault.is_some();
    }

    async fn collect_from(
        &self,
        runtime: &Runtime,
        records: &mut images::Records,
        now: Duration,
    ) -> Result<(), String> {
        let images = self.observe_images(runtime, records, now).await.map_err(|error| error.to_string())?;
        if images == 0 {
            return Ok(());
        }
        let old = self.remove_old(runtime, records, now).await.map_err(|error| error.to_string());
        old.and(self.free_disk(runtime, records, now).await)
    }

    /// Removes images that were unused for as long as they may be.
    async fn remove_old(
        &self,
        runtime: &Runtime,
        records: &mut images::Records,
        now: Duration,
    ) -> Result<(), CriError> {
        let Some(age) = self.config().image_gc_max_age else { return Ok(()) };
        let old = records.unused_longer(age, now);
        remove(runtime, records, old, u64::MAX).await.map(drop)
    }

    /// Removes images if the disk they lie on fills up.
    async fn free_disk(&self, runtime: &Runtime, records: &mut images::Records, now: Duration) -> Result<(), String> {
        let place = runtime.image_dir().await.map_err(|error| error.to_string())?;
        let disk = self.gauge.disk(Path::new(&place)).map_err(|error| format!("{place}: {error}"))?;
        let Some((used, wanted)) = disk.and_then(images::to_free) else { return Ok(()) };
        tracing::info!(place, used, wanted, "the disk of the images fills up: those that nobody uses are removed");
        let freed = self.free(runtime, wanted, records, now).await.map_err(|error| error.to_string())?;
        if freed >= wanted {
            return Ok(());
        }
        let message = format!(
            "Insufficient free disk space on the node's image filesystem ({used}% used). Failed to free sufficient space by \
             deleting unused images (freed {freed} bytes). Consider resizing the disk or deleting unused files."
        );
        self.event(EventType::Warning, "FreeDiskSpaceFailed", message);
        Err(format!(
            "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found {freed} bytes eligible to free."
        ))
    }

    /// Takes in what images there are, and which are in use. Gives their number.
    async fn observe_images(
        &self,
        runtime: &Runtime,
        records: &mut images::Records,
        now: Duration,
    ) -> Result<usize, CriError> {
        let images = runtime.images().await?;
        let containers = runtime.containers(None).await?;
        let mut used: BTreeSet<String> = BTreeSet::new();
        for container in containers {
            used.insert(container.image_ref);
            used.extend(container.image.map(|image| image.image));
        }
        // What a pod here is to run is needed although no container has it yet: it may not be to be had again.
        used.extend(self.pods.wanted_images());
        let is_used = |image: &Image| {
            let names = image.repo_tags.iter().chain(&image.repo_digests).chain(std::iter::once(&image.id));
            names.into_iter().any(|name| used.contains(name) || used.iter().any(|used| is_same(name, used)))
        };
        records.observe(&images, is_used, now);
        Ok(images.len())
    }

    /// Removes images that nobody uses until so many bytes are free.
    async fn free(
        &self,
        runtime: &Runtime,
        wanted: u64,
        records: &mut images::Records,
        now: Duration,
    ) -> Result<u64, CriError> {
        self.observe_images(runtime, records, now).await?;
        let unused = records.unused(now);
        remove(runtime, records, unused, wanted).await
    }
}

/// Removes images, in this order, until so many bytes are free. Gives how many are.
async fn remove(
    runtime: &Runtime,
    records: &mut images::Records,
    unused: Vec<images::Unused>,
    wanted: u64,
) -> Result<u64, CriError> {
    let (mut freed, mut fault) = (0, None);
    for unused in unused {
        if freed >= wanted {
            break;
        }
        match runtime.remove_image(&unused.id).await {
            Ok(()) => {
                tracing::info!(image = unused.id, bytes = unused.size, "removed an image that nobody uses");
                records.removed(&unused.id);
                freed += unused.size;
            }
            Err(error) => fault = Some(error),
        }
    }
    fault.map_or(Ok(freed), Err)
}

/// Whether two names mean one image although one has what the other leaves to the default.
fn is_same(full: &str, written: &str) -> bool {
    let (full, written) = (short(full), short(written));
    full == written || full.strip_suffix(":latest") == Some(&*written)
}

/// Without what goes without saying of a name on Docker Hub; hosts mean the same in upper and lower case.
fn short(name: &str) -> String {
    let name = match name.split_once('/') {
        Some((host, path)) => format!("{}/{path}", host.to_ascii_lowercase()),
        None => return name.to_owned(),
    };
    let hub = ["docker.io/", "index.docker.io/"].iter().find_map(|host| name.strip_prefix(host));
    let path = hub.unwrap_or(&name);
    path.strip_prefix("library/").unwrap_or(path).to_owned()
}

#[cfg(test)]
mod tests {
    use super::is_same;

    #[test]
    fn a_name_is_known_in_all_its_spellings() {
        let hub = "docker.io/library/app:latest";
        for written in
            ["app", "app:latest", "library/app", "docker.io/app", "Docker.io/library/app", "index.docker.io/app"]
        {
            assert!(is_same(hub, written), "{written}");
        }
        assert!(
            is_same("docker.io/team/app:v1", "docker.io/team/app:v1")
                && is_same("docker.io/team/app:v1", "team/app:v1")
        );
        assert!(is_same("ghcr.io/team/app:v1", "GHCR.IO/team/app:v1"));
        for other in ["app:v1", "team/app", "ghcr.io/library/app", "App"] {
            assert!(!is_same(hub, other), "{other}");
        }
    }
}
