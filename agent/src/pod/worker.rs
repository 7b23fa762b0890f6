//! The task of one pod: gathers inputs for its machine and carries out the effects.
//!
//! Owns what is under way for the pod. Must not decide anything about it. If the task dies it is started again and finds
//! the pod as the runtime has it, so nothing is run twice.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::events::EventType;
use coracle_client::{OnExit, Pod};
use futures::future::{AbortHandle, Abortable};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::PodStatus;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::acts;
use super::context::{LiveRun, PodContext};
use super::machine::{Effect, Input, Observed, PodMachine, ProbeKind, SandboxInfo, container};
use super::observe::{exit, observe};
use crate::mailbox::Mail;
use crate::probes::{ProbeTask, Rhythm, check_of};
use crate::status::SharedStatus;
use crate::volumes;

/// A status that only says that a pod is on its way waits this long for a better one: most pods are up before, and each
/// write wears the server's disk.
const ON_ITS_WAY: Duration = Duration::from_secs(1);
/// And one that only waits for the first word of a readiness probe, which is asked for at once.
const NEARLY_READY: Duration = Duration::from_millis(100);
/// A try to ask the runtime again after it did not answer.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// A pod that is slow to start, for whatever reason, lets the next one begin after so long.
const START: Duration = Duration::from_secs(1);

type Work = Pin<Box<dyn Future<Output = Done> + Send>>;

/// What came of a piece of work.
enum Done {
    Input(Input),
    /// The volumes are as their sources were when it began.
    Refreshed,
    Nothing,
}

impl From<Option<Input>> for Done {
    fn from(input: Option<Input>) -> Self {
        input.map_or(Done::Nothing, Done::Input)
    }
}

/// How the task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Nothing of the pod is left.
    Forgotten,
    Cancelled,
}

pub struct Worker {
    context: Arc<PodContext>,
    machine: PodMachine,
    work: FuturesUnordered<Work>,
    /// Ends the image pull or volume preparation that is under way.
    lane: Option<AbortHandle>,
    probes: BTreeMap<Arc<str>, CancellationToken>,
    published: Option<SharedStatus>,
    publish_at: Option<Instant>,
    /// When a token in a volume is to be renewed.
    refresh_at: Option<Instant>,
    recorded: bool,
    /// A refresh of the volumes is under way; something changed that it, or the first filling, may have missed.
    refreshing: bool,
    refresh_again: bool,
    forgotten: bool,
    /// Held while the pod begins, and until when at most.
    start: Option<(OwnedSemaphorePermit, Instant)>,
}

impl Worker {
    pub fn new(context: Arc<PodContext>, pod: Arc<Pod>, start: OwnedSemaphorePermit) -> Self {
        let now = context.shared.now();
        Self {
            context,
            machine: PodMachine::new(pod, now),
            work: FuturesUnordered::new(),
            lane: None,
            probes: BTreeMap::new(),
            published: None,
            publish_at: None,
            refresh_at: None,
            recorded: false,
            refreshing: false,
            refresh_again: false,
            forgotten: false,
            start: Some((start, Instant::now() + START)),
        }
    }

    /// Runs the pod until nothing of it is left.
    pub async fn run(mut self, cancel: CancellationToken) -> Ended {
        self.context.shared.status.observe(self.machine.pod());
        self.context.hold_sources(self.machine.pod());
        if self.context.holders().is_empty() {
            self.give(Input::Observed(Observed::default()));
        } else {
            self.ask_runtime();
        }
        let mailbox = self.context.mailbox.clone();
        while !self.forgotten {
            self.publish();
            let under_way = self.machine.is_under_way();
            self.start.take_if(|(_, until)| !under_way || *until <= Instant::now());
            let deadline = self.next_deadline();
            let wake = async {
                match deadline {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = cancel.cancelled() => {
                    self.end_probes();
                    return Ended::Cancelled;
                }
                Some(done) = self.work.next(), if !self.work.is_empty() => match done {
                    Done::Input(input) => self.give(input),
                    Done::Refreshed => {
                        self.refreshing = false;
                        self.catch_up();
                    }
                    Done::Nothing => {}
                },
                mail = mailbox.take() => self.read(mail),
                () = wake => self.wake(),
            }
        }
        self.end_probes();
        Ended::Forgotten
    }

    fn next_deadline(&self) -> Option<Instant> {
        let now = self.context.shared.now();
        let machine = self.machine.deadline(now).map(|at| self.context.shared.start + at);
        let start = self.start.as_ref().map(|(_, until)| *until);
        [machine, self.publish_at, self.refresh_at, start].into_iter().flatten().min()
    }

    fn wake(&mut self) {
        let now = Instant::now();
        if self.publish_at.is_some_and(|at| at <= now) {
            self.publish_now();
        }
        if self.refresh_at.is_some_and(|at| at <= now) {
            self.refresh_at = None;
            self.refresh_volumes();
        }
        self.give(Input::Tick);
    }

    fn read(&mut self, mail: Mail) {
        if let Some(pod) = mail.pod {
            self.context.shared.status.observe(&pod);
            let old = self.machine.pod().clone();
            let changed = old.spec != pod.spec
                || old.metadata.labels != pod.metadata.labels
                || old.metadata.annotations != pod.metadata.annotations;
            self.give(Input::Updated(pod));
            self.show_object();
            if changed {
                self.context.hold_sources(self.machine.pod());
                self.refresh_volumes();
            }
        }
        if mail.removed {
            self.give(Input::Removed);
        }
        if mail.relist {
            self.ask_runtime();
        }
        if let Some(id) = mail.lost_sandbox {
            self.give(Input::SandboxLost { id });
        }
        for (id, status) in mail.exits {
            match status {
                Some(status) => {
                    let exit = exit(self.machine.pod(), &status);
                    self.give(Input::Exited { id, exit });
                }
                None => self.ask_how_it_ended(id),
            }
        }
        for ((container, kind), verdict) in mail.verdicts {
            let (id, healthy, grace) = (verdict.id, verdict.healthy, verdict.grace);
            self.give(Input::Probed { container, id, kind, healthy, grace });
        }
        if let Some(eviction) = mail.eviction {
            self.give(Input::Evicted { message: eviction.message, disrupted: eviction.disrupted });
        }
        if mail.sources_changed {
            self.give(Input::SourcesChanged);
            self.refresh_volumes();
        }
    }

    fn give(&mut self, input: Input) {
        let now = self.context.shared.now();
        if let Input::VolumesReady = input {
            self.plan_refresh();
            self.record();
            self.catch_up();
        }
        for effect in self.machine.on(input, now) {
            self.perform(effect);
        }
        self.show_live();
        if self.machine.is_terminating() {
            // It is not started again, whatever happens.
            self.context.end_record();
        }
    }

    /// Tells readers of logs which containers live and which have ended.
    fn show_live(&self) {
        let mut view = self.context.view.lock();
        for slot in self.machine.slots() {
            let live = slot.id().filter(|_| slot.is_running());
            if view.live.get(&slot.name).map(|run| &run.id) == live {
                continue;
            }
            if let Some(run) = view.live.remove(&slot.name) {
                run.ended.cancel();
            }
            if let Some(id) = live {
                let run = LiveRun { id: id.clone(), attempt: slot.attempt, ended: CancellationToken::new() };
                view.live.insert(slot.name.clone(), run);
            }
        }
    }

    fn add(&mut self, work: impl Future<Output = Input> + Send + 'static) {
        self.work.push(Box::pin(work.map(Done::Input)));
    }

    /// Work that the machine may give up.
    fn add_abortable(&mut self, work: impl Future<Output = Input> + Send + 'static) {
        let (handle, registration) = AbortHandle::new_pair();
        self.lane = Some(handle);
        self.work.push(Box::pin(Abortable::new(work, registration).map(|outcome| outcome.ok().into())));
    }

    fn perform(&mut self, effect: Effect) {
        let (context, pod) = (self.context.clone(), self.machine.pod().clone());
        let sandbox = self.machine.sandbox().cloned();
        let ips = sandbox.as_ref().map(|info| info.ips.clone()).unwrap_or_default();
        match effect {
            Effect::PrepareVolumes => {
                self.add_abortable(async move { acts::prepare_volumes(&context, &pod).await });
            }
            Effect::RunSandbox { attempt } => {
                self.add(async move { acts::run_sandbox(&context, &pod, attempt).await });
            }
            Effect::EnsureImage { container } => {
                self.add_abortable(async move { acts::ensure_image(&context, &pod, container).await });
            }
            Effect::Abort => {
                if let Some(lane) = self.lane.take() {
                    lane.abort();
                }
            }
            Effect::Create { container, attempt, image } => {
                self.add(async move { acts::create(&context, &pod, container, attempt, image, sandbox).await })
            }
            Effect::Start { container, id } => {
                self.add(async move { acts::start(&context, &pod, container, &id).await });
            }
            Effect::PostStart { container, id } => {
                self.add(async move { acts::post_start(&context, &pod, container, &id, ips).await });
            }
            Effect::Stop { container, id, grace } => {
                self.add(async move { acts::stop(&context, &pod, container, id, grace, ips).await });
            }
            Effect::RemoveContainer { container, id, attempt } => self.work.push(Box::pin(async move {
                acts::remove_container(&context, &pod, &container, &id, attempt).await;
                Done::Nothing
            })),
            Effect::BeginProbes { container, id, startup } => self.begin_probes(&container, &id, startup, sandbox),
            Effect::EndProbes { container } => {
                if let Some(token) = self.probes.remove(&container) {
                    token.cancel();
                }
            }
            Effect::Resize { container, id } => {
                self.add(async move { acts::resize(&context, &pod, container, id).await });
            }
            Effect::StopSandbox { id } => {
                self.add(async move { acts::stop_sandbox(&context, &pod, &id).await });
            }
            Effect::Dispose => self.add(async move { acts::dispose(&context).await }),
            Effect::DeleteObject => {
                self.publish_now();
                context.shared.status.delete(&context.uid);
            }
            Effect::Forget => self.forgotten = true,
            Effect::Event { warning, reason, message, container } => {
                let kind = if warning { EventType::Warning } else { EventType::Normal };
                let reference = context.reference(&pod, container.as_deref());
                context.shared.recorder.event(&reference, kind, reason, message);
            }
        }
    }

    fn begin_probes(&mut self, name: &Arc<str>, id: &Arc<str>, startup: bool, sandbox: Option<SandboxInfo>) {
        let pod = self.machine.pod().clone();
        let Some(declared) = pod.spec.as_ref().and_then(|spec| container(spec, name)) else { return };
        let Some((runtime, _)) = self.context.chosen() else { return };
        let token = self.probes.entry(name.clone()).or_default().clone();
        let host = pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
        let ips = if host { self.context.shared.host_ips() } else { sandbox.map(|info| info.ips).unwrap_or_default() };
        let ip: Option<IpAddr> = ips.first().and_then(|ip| ip.parse().ok());
        let all = [
            (ProbeKind::Startup, &declared.startup_probe),
            (ProbeKind::Liveness, &declared.liveness_probe),
            (ProbeKind::Readiness, &declared.readiness_probe),
        ];
        for (kind, probe) in all {
            let Some(probe) = probe.as_ref().filter(|_| (kind == ProbeKind::Startup) == startup) else { continue };
            let task = Arc::new(ProbeTask {
                kind,
                rhythm: Rhythm::of(probe),
                check: check_of(probe, declared, ip),
                container: name.clone(),
                container_id: id.clone(),
                runtime: runtime.clone(),
                prober: self.context.shared.prober.clone(),
                mailbox: self.context.mailbox.clone(),
                recorder: self.context.shared.recorder.clone(),
                reference: self.context.reference(&pod, Some(name)),
            });
            let title = format!("probe-{name}-{kind}");
            let token = token.clone();
            self.context.scope.spawn(&title, OnExit::Finish, move |cancel| {
                let (token, task) = (token.clone(), task.clone());
                async move {
                    tokio::select! {
                        biased;
                        () = cancel.cancelled() => {}
                        () = token.cancelled() => {}
                        () = task.run() => {}
                    }
                }
            });
        }
    }

    fn end_probes(&mut self) {
        for token in std::mem::take(&mut self.probes).into_values() {
            token.cancel();
        }
    }

    /// Asks whoever may hold something of the pod for all that is known of it, again and again until there is an answer.
    fn ask_runtime(&mut self) {
        let as_of = self.machine.makes();
        let (context, pod) = (self.context.clone(), self.machine.pod().clone());
        self.add(async move {
            let holders = context.holders();
            for runtime in &holders {
                runtime.met().await;
            }
            loop {
                match observe(&holders, &pod, as_of).await {
                    Ok((observed, holder)) => {
                        if let Some(Err(message)) = holder.map(|holder| context.give(holder)) {
                            tracing::warn!(pod = %context.key, message);
                        }
                        return Input::Observed(observed);
                    }
                    Err(error) => tracing::debug!(pod = %context.key, %error, "the runtime does not say what it has"),
                }
                tokio::time::sleep(ASK_AGAIN).await;
            }
        });
    }

    fn ask_how_it_ended(&mut self, id: Arc<str>) {
        let live = self.machine.slots().iter().any(|slot| slot.is_running() && slot.id() == Some(&id));
        let (context, pod) = (self.context.clone(), self.machine.pod().clone());
        let Some((runtime, _)) = self.context.chosen().filter(|_| live) else { return };
        self.work.push(Box::pin(async move {
            // Anything else is no news: it runs on, or the runtime will be asked again when it is heard again.
            let input = acts::ended(&context, &runtime, &pod, id).await;
            if let Input::Exited { .. } = input { Done::Input(input) } else { Done::Nothing }
        }));
    }

    /// Brings volumes up to date beside whatever else is under way.
    fn refresh_volumes(&mut self) {
        if self.machine.is_terminating() {
            return;
        }
        // One at a time: an older one that ends later would put older content in its place.
        if !self.recorded || self.refreshing {
            self.refresh_again = true;
            return;
        }
        self.refreshing = true;
        let (context, pod) = (self.context.clone(), self.machine.pod().clone());
        let ips = self.machine.sandbox().map(|info| info.ips.clone()).unwrap_or_default();
        self.work.push(Box::pin(async move {
            if let Err(message) = acts::volumes_of(&context, &pod, &ips).await {
                let reference = context.reference(&pod, None);
                context.shared.recorder.event(&reference, EventType::Warning, "FailedMount", message);
            }
            context.record(&pod).await;
            Done::Refreshed
        }));
        self.plan_refresh();
    }

    /// What changed while volumes were being filled is looked at now.
    fn catch_up(&mut self) {
        if std::mem::take(&mut self.refresh_again) {
            self.refresh_volumes();
        }
    }

    fn plan_refresh(&mut self) {
        let wanted = volumes::token_projections(self.machine.pod()).len();
        if wanted == 0 {
            return;
        }
        let now = self.context.shared.clock.now();
        let next = self.context.shared.tokens.of(&self.context.uid).iter().map(|token| token.renew_at()).min();
        // A token that could not be renewed is tried again in a minute.
        let least = Duration::from_secs(60);
        self.refresh_at = next.map(|at| {
            let wait = Duration::try_from(at.duration_since(now)).unwrap_or_default().max(least);
            Instant::now() + wait
        });
    }

    fn record(&mut self) {
        self.recorded = true;
        let (context, pod) = (self.context.clone(), self.machine.pod().clone());
        self.work.push(Box::pin(async move {
            context.record(&pod).await;
            Done::Nothing
        }));
    }

    /// Hands the status on if it has changed: at once if it says more than that the pod is on its way.
    fn publish(&mut self) {
        let now = self.context.shared.now();
        let status = self.machine.status(&self.context.shared.host_ips(), now);
        if self.published.as_deref() == Some(&status) {
            return;
        }
        let status = compact(&status);
        self.show(&status);
        // One that served and does not any more is told at once.
        let was_up = self.published.as_ref().is_some_and(|before| before.phase.as_deref() == Some("Running"));
        match on_its_way(&status).filter(|_| !was_up && !self.machine.is_terminating()) {
            Some(wait) => {
                let at = Instant::now() + wait;
                self.publish_at = Some(self.publish_at.map_or(at, |earlier| earlier.min(at)));
            }
            None => self.send(status),
        }
    }

    /// Not only with the next status: an object that nobody else holds any more would be kept until then.
    fn show_object(&mut self) {
        let pod = self.machine.pod();
        let mut view = self.context.view.lock();
        if self.published.as_deref().is_some_and(|published| pod.status.as_ref() == Some(published)) {
            let status = SharedStatus::of(pod);
            view.status = status.clone();
            self.published = Some(status);
        }
        view.pod = pod.clone();
    }

    fn show(&self, status: &SharedStatus) {
        let mut view = self.context.view.lock();
        view.pod = self.machine.pod().clone();
        view.status = status.clone();
    }

    fn publish_now(&mut self) {
        let now = self.context.shared.now();
        let status = self.machine.status(&self.context.shared.host_ips(), now);
        if self.published.as_deref() != Some(&status) {
            self.send(compact(&status));
        }
        self.publish_at = None;
    }

    fn send(&mut self, status: SharedStatus) {
        self.publish_at = None;
        self.context.shared.status.publish(&self.context.uid, status.clone());
        self.published = Some(status);
    }
}

/// The status, held by all who want it, without the room its lists had for more: that would be kilobytes for each pod.
fn compact(status: &PodStatus) -> SharedStatus {
    SharedStatus::Made(Arc::new(status.clone()))
}

/// Nothing has gone wrong, and there will be more to tell in a moment: how long that may take.
fn on_its_way(status: &PodStatus) -> Option<Duration> {
    let all = || status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    let mut waiting = all().filter_map(|status| status.state.as_ref()?.waiting.as_ref()?.reason.as_deref());
    match status.phase.as_deref() {
        Some("Pending") => {
            waiting.all(|reason| matches!(reason, "ContainerCreating" | "PodInitializing")).then_some(ON_ITS_WAY)
        }
        Some("Running") => {
            let mut apps = status.container_statuses.iter().flatten();
            let fresh = apps.clone().all(|status| {
                status.restart_count == 0 && status.state.as_ref().is_some_and(|state| state.running.is_some())
            });
            (fresh && apps.any(|status| !status.ready)).then_some(NEARLY_READY)
        }
        _ => None,
    }
}
