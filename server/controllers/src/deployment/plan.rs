//! Decides the next move of a Deployment: which ReplicaSets to take in, make, resize and remove, and what its status is.
//! Pure. One pass makes one kind of move, as upstream does; the sets' new state brings the next pass.

use std::cmp::Reverse;
use std::fmt;
use std::sync::Arc;

use coracle_api::selector::LabelSelector;
use coracle_client::Pod;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector as Selector, ObjectMeta};

use super::revision::{self, annotation};
use super::sizes::{self, Strategy};
use super::status;
use super::template::{self, HASH_LABEL};
use crate::owner::{self, Claim};
use crate::pod;

pub(crate) struct Observed<'a> {
    pub(crate) deployment: &'a Deployment,
    pub(crate) selector: &'a LabelSelector,
    /// ReplicaSets of the namespace that are controlled by the Deployment or by nobody.
    pub(crate) sets: &'a [Arc<ReplicaSet>],
    /// Pods controlled by those sets; only a Recreate needs them.
    pub(crate) pods: &'a [Arc<Pod>],
    pub(crate) now: Timestamp,
}

/// Effects in the order in which they must be done; what follows a failed one must not be done.
pub(crate) enum Step {
    Adopt(Arc<ReplicaSet>),
    Release(Arc<ReplicaSet>),
    /// `event`: message of the `ScalingReplicaSet` event that tells of it.
    Create {
        set: Box<ReplicaSet>,
        event: Option<String>,
    },
    Update {
        set: Box<ReplicaSet>,
        event: Option<String>,
    },
    /// Notes the current revision on the Deployment.
    Revision(String),
    Delete(Arc<ReplicaSet>),
}

pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    /// The status to write after the steps; `None` when it stands already.
    pub(crate) status: Option<DeploymentStatus>,
    /// When to look again though nothing has changed: the progress deadline.
    pub(crate) wake: Option<Timestamp>,
}

pub(crate) fn plan(observed: &Observed<'_>) -> Plan {
    let mut pass = Pass::new(observed);
    let deployment = observed.deployment;
    let paused = deployment.spec.as_ref().and_then(|s| s.paused).unwrap_or(false);
    pass.claim();
    pass.find_new();
    if deployment.metadata.deletion_timestamp.is_some() {
        pass.report();
        return pass.finish();
    }
    status::note_pause(deployment, &mut pass.status, observed.now);
    if paused || pass.is_scaling() {
        pass.revise();
        pass.scale();
        if paused {
            pass.clean_up();
        }
        pass.report();
        return pass.finish();
    }
    match sizes::strategy(deployment) {
        Strategy::RollingUpdate => pass.roll(),
        Strategy::Recreate => pass.recreate(),
    }
    pass.report_rollout();
    pass.finish()
}

/// A ReplicaSet as it will be after this pass.
struct Model {
    set: ReplicaSet,
    /// As it was seen; `None` for one that is made in this pass.
    seen: Option<Arc<ReplicaSet>>,
    event: Option<String>,
}

impl Model {
    fn size(&self) -> i32 {
        sizes::size(&self.set)
    }
}

struct Pass<'a> {
    observed: &'a Observed<'a>,
    /// Sorted by age, oldest first.
    models: Vec<Model>,
    /// Which of `models` has the Deployment's template.
    new: Option<usize>,
    claims: Vec<Step>,
    deletions: Vec<Step>,
    revision: Option<String>,
    status: DeploymentStatus,
}

impl<'a> Pass<'a> {
    fn new(observed: &'a Observed<'a>) -> Self {
        Self {
            observed,
            models: Vec::new(),
            new: None,
            claims: Vec::new(),
            deletions: Vec::new(),
            revision: None,
            status: observed.deployment.status.clone().unwrap_or_default(),
        }
    }

    fn deployment(&self) -> &'a Deployment {
        self.observed.deployment
    }

    fn template(&self) -> Option<&'a PodTemplateSpec> {
        self.deployment().spec.as_ref().map(|s| &s.template)
    }

    fn claim(&mut self) {
        for set in self.observed.sets {
            match owner::claim(&self.deployment().metadata, self.observed.selector, &set.metadata, false) {
                Claim::Own => {}
                Claim::Adopt => self.claims.push(Step::Adopt(set.clone())),
                Claim::Release => {
                    self.claims.push(Step::Release(set.clone()));
                    continue;
                }
                Claim::Ignore => continue,
            }
            self.models.push(Model { set: (**set).clone(), seen: Some(set.clone()), event: None });
        }
        self.models.sort_by(|a, b| age_key(&a.set).cmp(&age_key(&b.set)));
    }

    /// Of several sets with the Deployment's template the oldest is its own, so that the choice never flips.
    fn find_new(&mut self) {
        let Some(wanted) = self.template() else { return };
        self.new = self.models.iter().position(|m| {
            m.set.spec.as_ref().and_then(|s| s.template.as_ref()).is_some_and(|t| template::same(t, wanted))
        });
    }

    fn old(&self) -> impl Iterator<Item = usize> + use<> {
        let new = self.new;
        (0..self.models.len()).filter(move |i| Some(*i) != new)
    }

    fn active_old(&self) -> Vec<usize> {
        self.old().filter(|i| self.models[*i].size() > 0).collect()
    }

    fn total(&self) -> i32 {
        sizes::total(self.models.iter().map(|m| &m.set))
    }

    fn next_revision(&self) -> i64 {
        self.old().map(|i| revision::revision(&self.models[i].set)).max().unwrap_or(0) + 1
    }

    /// Whether the wanted number changed since the sets got their sizes: that is not part of a rollout.
    fn is_scaling(&self) -> bool {
        let wanted = sizes::wanted(self.deployment());
        self.models.iter().filter(|m| m.size() > 0).any(|m| revision::desired(&m.set).is_some_and(|d| d != wanted))
    }

    /// Brings the newest set's annotations and the Deployment's revision up to date, if there is a newest set.
    fn revise(&mut self) {
        let Some(new) = self.new else { return };
        let next = self.next_revision();
        let deployment = self.deployment();
        let model = &mut self.models[new];
        revision::annotate_new(deployment, &mut model.set, next);
        if let Some(spec) = &mut model.set.spec {
            let wanted = deployment.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0);
            if spec.min_ready_seconds.unwrap_or(0) != wanted {
                spec.min_ready_seconds = Some(wanted);
            }
        }
        self.revision = annotation(&model.set.metadata, revision::REVISION).map(str::to_owned);
        let name = owner::name(&model.set.metadata);
        status::note_found(deployment, &mut self.status, name, self.observed.now);
    }

    fn revise_or_create(&mut self) {
        if self.new.is_some() {
            return self.revise();
        }
        let Some(template) = self.template() else { return };
        let deployment = self.deployment();
        let mut set = new_set(deployment, template);
        let size = sizes::new_set_size(deployment, self.total(), 0);
        if let Some(spec) = &mut set.spec {
            spec.replicas = Some(size);
        }
        let revision = self.next_revision();
        revision::annotate_new(deployment, &mut set, revision);
        revision::annotate_replicas(deployment, &mut set);
        let name = owner::name(&set.metadata).to_owned();
        status::note_created(deployment, &mut self.status, &name, self.observed.now);
        self.revision = Some(revision.to_string());
        let event = (size > 0).then(|| format!("Scaled up replica set {name} from 0 to {size}"));
        self.new = Some(self.models.len());
        self.models.push(Model { set, seen: None, event });
    }

    /// Gives a set its size and notes what was wanted then. Says whether the size is another one.
    fn resize(&mut self, index: usize, to: i32) -> bool {
        let deployment = self.deployment();
        let model = &mut self.models[index];
        let from = model.size();
        if from == to && revision::replicas_noted(deployment, &model.set) {
            return false;
        }
        revision::annotate_replicas(deployment, &mut model.set);
        if from == to {
            return false;
        }
        if let Some(spec) = &mut model.set.spec {
            spec.replicas = Some(to);
        }
        // Of two steps in one pass only the whole way is told.
        let from = model.seen.as_ref().map_or(0, |seen| sizes::size(seen));
        let name = owner::name(&model.set.metadata);
        let direction = if from < to { "up" } else { "down" };
        model.event = Some(format!("Scaled {direction} replica set {name} from {from} to {to}"));
        true
    }

    /// Answers a change of the wanted number: the one active set takes it all, several share it by their sizes.
    fn scale(&mut self) {
        let wanted = sizes::wanted(self.deployment());
        let mut active: Vec<usize> = (0..self.models.len()).filter(|i| self.models[*i].size() > 0).collect();
        if active.len() <= 1 {
            let newest = active.first().copied().or(self.new).or_else(|| self.old().last());
            if let Some(only) = newest {
                self.resize(only, wanted);
            }
            return;
        }
        if self.new.is_some_and(|new| self.is_saturated(&self.models[new].set)) {
            for index in self.active_old() {
                self.resize(index, 0);
            }
            return;
        }
        if sizes::strategy(self.deployment()) == Strategy::Recreate {
            return;
        }
        let allowed = if wanted > 0 { wanted + sizes::leeway(self.deployment()).surge } else { 0 };
        let to_add = allowed - self.total();
        // Largest first; of equals the newest grows first and the oldest shrinks first. Indexes are by age.
        active.sort_by_key(|i| (Reverse(self.models[*i].size()), if to_add > 0 { usize::MAX - i } else { *i }));
        let mut added = 0;
        let mut targets = Vec::with_capacity(active.len());
        for index in active {
            let set = &self.models[index].set;
            let share = sizes::share(set, self.deployment(), to_add, added);
            added += share;
            targets.push((index, sizes::size(set) + share));
        }
        if let Some((_, largest)) = targets.first_mut() {
            *largest = (*largest + to_add - added).max(0);
        }
        for (index, target) in targets {
            self.resize(index, target);
        }
    }

    fn is_saturated(&self, set: &ReplicaSet) -> bool {
        let wanted = sizes::wanted(self.deployment());
        sizes::size(set) == wanted && revision::desired(set) == Some(wanted) && sizes::available(set) == wanted
    }

    fn roll(&mut self) {
        self.revise_or_create();
        if self.grow_new() || self.shrink_old() {
            return;
        }
        if status::is_complete(self.deployment(), self.deployment().status.as_ref()) {
            self.clean_up();
        }
    }

    fn grow_new(&mut self) -> bool {
        let Some(new) = self.new else { return false };
        let (size, wanted) = (self.models[new].size(), sizes::wanted(self.deployment()));
        let target = if size > wanted { wanted } else { sizes::new_set_size(self.deployment(), self.total(), size) };
        size != target && self.resize(new, target)
    }

    fn shrink_old(&mut self) -> bool {
        let old = self.active_old();
        let Some(new) = self.new.filter(|_| !old.is_empty()) else { return false };
        let deployment = self.deployment();
        let least = sizes::wanted(deployment) - sizes::leeway(deployment).unavailable;
        let new_set = &self.models[new].set;
        let new_unavailable = sizes::size(new_set) - sizes::available(new_set);
        let spare = self.total() - least - new_unavailable;
        if spare <= 0 {
            return false;
        }
        // Unhealthy pods first: they would block the rollout, and their loss costs no availability.
        let mut shrunk = 0;
        for index in &old {
            let set = &self.models[*index].set;
            let unhealthy = (sizes::size(set) - sizes::available(set)).min(spare - shrunk);
            if unhealthy > 0 {
                let target = sizes::size(set) - unhealthy;
                self.resize(*index, target);
                shrunk += unhealthy;
            }
        }
        let available: i32 = self.models.iter().map(|m| sizes::available(&m.set)).sum();
        let mut surplus = available - least;
        for index in old {
            let size = self.models[index].size();
            let by = size.min(surplus);
            if by > 0 {
                self.resize(index, size - by);
                surplus -= by;
                shrunk += by;
            }
        }
        shrunk > 0
    }

    fn recreate(&mut self) {
        self.revise();
        let old = self.active_old();
        if !old.is_empty() {
            for index in old {
                self.resize(index, 0);
            }
            return;
        }
        if self.old_pods_run() {
            return;
        }
        self.revise_or_create();
        if let Some(new) = self.new {
            self.resize(new, sizes::wanted(self.deployment()));
        }
        if status::is_complete(self.deployment(), self.deployment().status.as_ref()) {
            self.clean_up();
        }
    }

    fn old_pods_run(&self) -> bool {
        if self.old().any(|i| sizes::actual(&self.models[i].set) > 0) {
            return true;
        }
        let new = self.new.map(|i| owner::uid(&self.models[i].set.metadata));
        self.observed.pods.iter().any(|p| {
            let controller = owner::controller_of(&p.metadata).map(|r| r.uid.as_str());
            controller != new && !pod::is_terminal(p)
        })
    }

    /// Removes the oldest empty sets beyond `revisionHistoryLimit`.
    fn clean_up(&mut self) {
        let limit = self.deployment().spec.as_ref().and_then(|s| s.revision_history_limit);
        let Some(limit) = limit.filter(|l| *l != i32::MAX) else { return };
        let mut candidates: Vec<Arc<ReplicaSet>> = self
            .old()
            .filter_map(|i| self.models[i].seen.clone())
            .filter(|s| s.metadata.deletion_timestamp.is_none())
            .collect();
        let surplus = candidates.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        candidates.sort_by(|a, b| (revision::revision(a), age_key(a)).cmp(&(revision::revision(b), age_key(b))));
        for set in candidates.into_iter().take(surplus) {
            let observed = set.status.as_ref().and_then(|s| s.observed_generation).unwrap_or(0);
            let settled = set.metadata.generation.unwrap_or(0) <= observed;
            if sizes::size(&set) == 0 && sizes::actual(&set) == 0 && settled {
                self.deletions.push(Step::Delete(set));
            }
        }
    }

    fn report(&mut self) {
        let sets: Vec<&ReplicaSet> = self.models.iter().map(|m| &m.set).collect();
        let new = self.new.map(|i| &self.models[i].set);
        self.status = status::calculate(self.observed.deployment, &self.status, &sets, new, self.observed.now);
    }

    fn report_rollout(&mut self) {
        let sets: Vec<&ReplicaSet> = self.models.iter().map(|m| &m.set).collect();
        let new = self.new.map(|i| &self.models[i].set);
        self.status = status::rollout(self.observed.deployment, &self.status, &sets, new, self.observed.now);
    }

    fn finish(self) -> Plan {
        let Self { observed, models, new, mut claims, deletions, revision, status, .. } = self;
        let deployment = observed.deployment;
        let mut rest = Vec::new();
        for (index, model) in models.into_iter().enumerate() {
            let set = Box::new(model.set);
            let step = match model.seen {
                None => Step::Create { set, event: model.event },
                Some(seen) if *seen == *set => continue,
                Some(_) => Step::Update { set, event: model.event },
            };
            // The newest set goes first: the others make room for it.
            if Some(index) == new { claims.push(step) } else { rest.push(step) }
        }
        let noted = annotation(&deployment.metadata, revision::REVISION);
        let leaving = deployment.metadata.deletion_timestamp.is_some();
        if let Some(revision) = revision.filter(|r| !leaving && noted != Some(r.as_str())) {
            claims.push(Step::Revision(revision));
        }
        claims.extend(rest);
        claims.extend(deletions);
        let wake = status::deadline(deployment, &status);
        let status = status::differs(deployment.status.as_ref(), &status).then_some(status);
        Plan { steps: claims, status, wake }
    }
}

fn age_key(set: &ReplicaSet) -> (Option<Timestamp>, &str) {
    (set.metadata.creation_timestamp.as_ref().map(|t| t.0), owner::name(&set.metadata))
}

fn new_set(deployment: &Deployment, template: &PodTemplateSpec) -> ReplicaSet {
    let collisions = deployment.status.as_ref().and_then(|s| s.collision_count);
    let hash = template::hash(template, collisions);
    let mut template = template.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH_LABEL.to_owned(), hash.clone());
    let labels = labels.clone();
    let spec = deployment.spec.as_ref();
    let mut selector: Selector = spec.map(|s| s.selector.clone()).unwrap_or_default();
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.clone());
    let name = owner::name(&deployment.metadata);
    let base = &name[..name.len().min(253 - 1 - hash.len())];
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{base}-{hash}")),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![owner::reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            min_ready_seconds: spec.and_then(|s| s.min_ready_seconds),
            replicas: Some(0),
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |f: &mut fmt::Formatter<'_>, verb: &str, set: &ReplicaSet| {
            let name = owner::name(&set.metadata);
            write!(f, "{verb} ReplicaSet {name} replicas={}", sizes::size(set))?;
            for (key, value) in set.metadata.annotations.iter().flatten() {
                write!(f, " {}={value}", key.rsplit('/').next().unwrap_or(key))?;
            }
            writeln!(f)
        };
        for step in &self.steps {
            match step {
                Step::Adopt(set) => writeln!(f, "adopt ReplicaSet {}", owner::name(&set.metadata))?,
                Step::Release(set) => writeln!(f, "release ReplicaSet {}", owner::name(&set.metadata))?,
                Step::Create { set, event } => {
                    line(f, "create", set)?;
                    event.iter().try_for_each(|e| writeln!(f, "  event {e}"))?;
                }
                Step::Update { set, event } => {
                    line(f, "update", set)?;
                    event.iter().try_for_each(|e| writeln!(f, "  event {e}"))?;
                }
                Step::Revision(revision) => writeln!(f, "note revision {revision}")?,
                Step::Delete(set) => writeln!(f, "delete ReplicaSet {}", owner::name(&set.metadata))?,
            }
        }
        Ok(())
    }
}
