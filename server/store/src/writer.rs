//! The one writer: takes groups of requests through decision, disk and publication, and looks after what is left over
//! when nobody waits (dropping old events, compacting the log, flushing the volatile tier).

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coracle_api::meta::Revision;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::disk::{Disk, DiskError, Marks, superseded};
use crate::entry::{Entry, Event, Key};
use crate::error::CommitError;
use crate::hub::Hub;
use crate::pending::{Pending, Texts};
use crate::queue::{Answer, Queue, Request, Wake};

/// Revisions reserved for the volatile tier at once: what a crash may skip. As many as nodes renew their leases by in
/// days: reserving more needs the disk, and while that is full the nodes have to stay alive on what is left.
const BLOCK: u64 = 1 << 20;
/// Requests in one transaction: bounds how long the first of them waits.
const GROUP_MOST: usize = 512;
/// Unneeded rows that are worth a transaction before their time.
const GARBAGE_MANY: usize = 4096;
/// Rows that one step of compaction or of a flush touches, while requests wait.
const STEP: usize = 512;
/// How long the work that can wait rests after it found the disk full.
const FULL_PAUSE: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) requests: AtomicU64,
    pub(crate) transactions: AtomicU64,
}

pub(crate) struct Writer {
    pub(crate) disk: Disk,
    pub(crate) hub: Arc<Hub>,
    pub(crate) texts: Texts,
    pub(crate) counters: Arc<Counters>,
    pub(crate) upkeep: Upkeep,
    pub(crate) reserved: Revision,
    pub(crate) failed: Option<Arc<str>>,
}

/// What can wait, and until when.
pub(crate) struct Upkeep {
    pub(crate) volatile: Arc<[Arc<str>]>,
    pub(crate) flush_every: Duration,
    pub(crate) compact_after: Duration,
    /// Rows of the log that nothing needs.
    pub(crate) garbage: VecDeque<Revision>,
    pub(crate) compacted: Revision,
    compact_at: Option<Instant>,
    /// Volatile keys changed since the last flush, and those a flush under way has yet to write.
    dirty: HashSet<Key>,
    flushing: Vec<Key>,
    flush_at: Option<Instant>,
}

impl Upkeep {
    pub(crate) fn new(
        volatile: Arc<[Arc<str>]>,
        flush_every: Duration,
        compact_after: Duration,
        garbage: VecDeque<Revision>,
        compacted: Revision,
    ) -> Self {
        Self {
            volatile,
            flush_every,
            compact_after,
            garbage,
            compacted,
            compact_at: None,
            dirty: HashSet::new(),
            flushing: Vec::new(),
            flush_at: None,
        }
    }

    fn is_volatile(&self, key: &Key) -> bool {
        self.volatile.contains(&key.resource)
    }

    fn note_volatile(&mut self, events: &[Arc<Event>], now: Instant) {
        for event in events {
            let key = &event.entry.key;
            if self.is_volatile(key) && !self.dirty.contains(key) {
                self.dirty.insert(key.clone());
            }
        }
        if !self.dirty.is_empty() && self.flush_at.is_none() {
            self.flush_at = Some(now + self.flush_every);
        }
    }

    fn note_dropped(&mut self, events: &[Arc<Event>], now: Instant) {
        for event in events {
            if !self.is_volatile(&event.entry.key) {
                self.garbage.extend(superseded(event.kind, &event.entry, event.previous.as_deref()));
                self.compacted = event.revision();
            }
        }
        if self.garbage.is_empty() {
            return;
        }
        let due = if self.garbage.len() >= GARBAGE_MANY { now } else { now + self.compact_after };
        self.compact_at = Some(self.compact_at.map_or(due, |at| at.min(due)));
    }
}

impl Writer {
    /// Serves the queue until it is closed or abandoned.
    pub(crate) fn serve(mut self, queue: &Queue) {
        loop {
            let deadline = self.tend(Instant::now());
            match queue.take(GROUP_MOST, deadline) {
                Wake::Requests(requests) => self.run(requests, Instant::now()),
                Wake::Deadline => {}
                Wake::Close(reply) => {
                    // A caller that no longer waits for the end wanted it all the same.
                    let _ = reply.send(self.close());
                    return;
                }
                Wake::Abandoned => return,
            }
        }
    }

    /// Commits a group. Requests of the volatile tier alone go first: they need no disk, so neither its slowness nor
    /// its being full concerns them.
    pub(crate) fn run(&mut self, requests: Vec<Request>, now: Instant) {
        let (volatile, durable): (Vec<_>, Vec<_>) =
            requests.into_iter().partition(|request| request.ops.iter().all(|(key, _)| self.upkeep.is_volatile(key)));
        for group in [volatile, durable] {
            if !group.is_empty() {
                self.group(group, now);
            }
        }
    }

    fn group(&mut self, requests: Vec<Request>, now: Instant) {
        self.counters.requests.fetch_add(requests.len() as u64, Ordering::Relaxed);
        if let Some(reason) = &self.failed {
            let error = CommitError::Failed(reason.clone());
            return refuse(requests.into_iter().map(|request| request.reply), &error);
        }
        let mut pending = Pending::on(self.hub.state().as_ref().clone(), &mut self.texts);
        let mut answers: Vec<(oneshot::Sender<Answer>, Answer, _)> = Vec::with_capacity(requests.len());
        for Request { ops, reply, _held } in requests {
            answers.push((reply, pending.apply(ops), _held));
        }
        let Pending { state, events, .. } = pending;
        let mut touched = Vec::new();
        if !events.is_empty() {
            if let Err(error) = self.persist(&events) {
                // Refusals too: they may rest on changes of this group that now did not happen.
                let error = self.commit_error(error);
                return refuse(answers.into_iter().map(|(reply, _, _)| reply), &error);
            }
            self.upkeep.note_volatile(&events, now);
            // Before the answers, so that whoever has one reads what it wrote.
            touched = self.hub.publish(state, &events, now);
        }
        for (reply, answer, _held) in answers {
            // A caller that was dropped while it waited does not want its answer.
            let _ = reply.send(answer);
        }
        for topic in touched {
            topic.notify_waiters();
        }
    }

    fn persist(&mut self, events: &[Arc<Event>]) -> Result<(), DiskError> {
        let upkeep = &self.upkeep;
        let mut durable = events.iter().filter(|event| !upkeep.is_volatile(&event.entry.key)).peekable();
        let last = events.last().map_or(Revision(0), |event| event.revision());
        let volatile = events.iter().rev().find(|event| upkeep.is_volatile(&event.entry.key));
        let exhausted = volatile.is_some_and(|event| event.revision() > self.reserved);
        let low = durable.peek().is_some() && last.0 + BLOCK / 2 > self.reserved.0;
        let reserve = (exhausted || low).then_some(Revision(last.0 + BLOCK));
        if durable.peek().is_none() && reserve.is_none() {
            return Ok(());
        }
        self.disk.append(
            durable.map(|event| &**event),
            reserve.map(|reserved| Marks { reserved, compacted: upkeep.compacted }),
        )?;
        self.counters.transactions.fetch_add(1, Ordering::Relaxed);
        self.reserved = reserve.unwrap_or(self.reserved);
        Ok(())
    }

    fn commit_error(&mut self, error: DiskError) -> CommitError {
        match error {
            DiskError::Full => CommitError::Full,
            DiskError::Failed(reason) => {
                self.hub.fail(&reason);
                CommitError::Failed(self.failed.insert(reason.into()).clone())
            }
        }
    }

    /// Does a step of what is due and says when to come again.
    pub(crate) fn tend(&mut self, now: Instant) -> Option<Instant> {
        let dropped = self.hub.trim(now);
        if self.failed.is_some() {
            return self.hub.trim_at();
        }
        self.upkeep.note_dropped(&dropped, now);
        drop(dropped);
        if self.upkeep.compact_at.is_some_and(|at| at <= now) {
            self.upkeep.compact_at = self.compact_step(now);
        }
        if self.upkeep.flush_at.is_some_and(|at| at <= now) {
            self.upkeep.flush_at = self.flush_step(now);
        }
        [self.hub.trim_at(), self.upkeep.compact_at, self.upkeep.flush_at].into_iter().flatten().min()
    }

    fn compact_step(&mut self, now: Instant) -> Option<Instant> {
        let upkeep = &mut self.upkeep;
        let many = upkeep.garbage.len().min(STEP);
        let step: Vec<Revision> = upkeep.garbage.drain(..many).collect();
        if let Err(error) = self.disk.compact(&step, upkeep.compacted) {
            step.into_iter().rev().for_each(|revision| self.upkeep.garbage.push_front(revision));
            return self.later(error, now);
        }
        (!upkeep.garbage.is_empty()).then_some(now)
    }

    fn flush_step(&mut self, now: Instant) -> Option<Instant> {
        let upkeep = &mut self.upkeep;
        if upkeep.flushing.is_empty() {
            upkeep.flushing = std::mem::take(&mut upkeep.dirty).into_iter().collect();
        }
        let state = self.hub.state();
        let rest = upkeep.flushing.len().saturating_sub(STEP);
        let step: Vec<(Key, Option<Arc<Entry>>)> = upkeep
            .flushing
            .split_off(rest)
            .into_iter()
            .map(|key| {
                let entry = state.get(&key).cloned();
                (key, entry)
            })
            .collect();
        if let Err(error) = self.disk.flush(&step) {
            self.upkeep.flushing.extend(step.into_iter().map(|(key, _)| key));
            return self.later(error, now);
        }
        match (upkeep.flushing.is_empty(), upkeep.dirty.is_empty()) {
            (false, _) => Some(now),
            (true, false) => Some(now + upkeep.flush_every),
            (true, true) => None,
        }
    }

    /// When to try again what can wait.
    fn later(&mut self, error: DiskError, now: Instant) -> Option<Instant> {
        match self.commit_error(error) {
            CommitError::Full => {
                tracing::warn!("no space for the state store's upkeep; it is tried again in a minute");
                Some(now + FULL_PAUSE)
            }
            CommitError::Failed(_) | CommitError::Exists(_) | CommitError::Conflict { .. } => None,
        }
    }

    /// Flushes everything and lets go of the file.
    pub(crate) fn close(mut self) -> Result<(), CommitError> {
        let now = Instant::now();
        while !(self.upkeep.dirty.is_empty() && self.upkeep.flushing.is_empty()) {
            if self.flush_step(now).is_some_and(|again| again > now) {
                return Err(CommitError::Full);
            }
            if let Some(reason) = &self.failed {
                return Err(CommitError::Failed(reason.clone()));
            }
        }
        let revision = self.hub.state().revision;
        match self.disk.close(Marks { reserved: revision, compacted: self.upkeep.compacted }) {
            Ok(()) => Ok(()),
            Err(DiskError::Full) => Err(CommitError::Full),
            Err(DiskError::Failed(reason)) => Err(CommitError::Failed(reason.into())),
        }
    }
}

fn refuse(replies: impl Iterator<Item = oneshot::Sender<Answer>>, error: &CommitError) {
    for reply in replies {
        // As above: nobody may be waiting any more.
        let _ = reply.send(Err(error.clone()));
    }
}
