//! What a container may have open at once: sockets, files, names being looked up; and its part of what the process may
//! have open, so that no pod can take the descriptors of all others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::log::Log;
use crate::wire::GuestLimits;

/// For the process itself: its log files being reopened, messages under way, code being loaded.
const RESERVE: usize = 128;

/// The descriptors of the process.
#[derive(Debug)]
pub(super) struct Descriptors {
    total: usize,
    used: AtomicUsize,
    containers: AtomicUsize,
    /// What containers have from their beginning to their end.
    fixed: AtomicUsize,
}

/// How many of a worker's descriptors its containers may have from the beginning: as many are left for what they open.
fn most_fixed(total: usize) -> usize {
    total / 2
}

impl Descriptors {
    /// `limit` is what the system allows the process.
    pub(super) fn new(limit: usize) -> Arc<Descriptors> {
        let total = limit.saturating_sub(RESERVE).max(RESERVE);
        Arc::new(Descriptors {
            total,
            used: AtomicUsize::new(0),
            containers: AtomicUsize::new(0),
            fixed: AtomicUsize::new(0),
        })
    }

    /// What this process may have open.
    pub(super) fn of_process() -> Arc<Descriptors> {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        Descriptors::new(limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX)))
    }
}

/// While there is plenty, anybody may open; when three quarters are gone, only who has less than a fair part of what is
/// left over. So a container always gets a few, however greedy its neighbours are.
fn may_open(total: usize, used: usize, containers: usize, own: usize) -> bool {
    let scarce = total - total / 4;
    if used < scarce {
        return true;
    }
    used < total && own < (total - scarce) / containers.max(1)
}

/// What can be had only so many times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Socket,
    File,
    Lookup,
}

impl Kind {
    const ALL: usize = 3;

    fn index(self) -> usize {
        match self {
            Kind::Socket => 0,
            Kind::File => 1,
            Kind::Lookup => 2,
        }
    }

    fn words(self) -> (&'static str, &'static str) {
        match self {
            Kind::Socket => ("open sockets", "coracle.dev/max-sockets"),
            Kind::File => ("open files", "coracle.dev/max-open-files"),
            Kind::Lookup => ("names being looked up", "coracle.dev/max-dns-lookups"),
        }
    }
}

/// What keeps a container out of this worker.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoRoom {
    /// Others have what there is: another worker has room.
    #[error("the Wasm worker's containers have {used} of {total} files open and this one needs {fixed} more")]
    Full { used: usize, total: usize, fixed: usize },
    #[error(
        "this container needs {fixed} open files, and a Wasm worker has {total}; raise the limit of open files \
         (LimitNOFILE of the service)"
    )]
    Never { total: usize, fixed: usize },
}

/// There is no more of it for this container now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused;

/// One container's.
#[derive(Debug)]
pub(super) struct Allowance {
    limits: [usize; Kind::ALL],
    used: [AtomicUsize; Kind::ALL],
    told: [AtomicBool; Kind::ALL],
    /// What it has open from the beginning: its log, its volumes, its listening socket.
    fixed: usize,
    descriptors: Arc<Descriptors>,
    log: Arc<Log>,
}

impl Allowance {
    /// `fixed` descriptors were handed over with the container.
    pub(super) fn new(
        limits: &GuestLimits,
        fixed: usize,
        descriptors: Arc<Descriptors>,
        log: Arc<Log>,
    ) -> Result<Arc<Allowance>, NoRoom> {
        let used = descriptors.used.fetch_add(fixed, Ordering::Relaxed);
        let others = descriptors.containers.fetch_add(1, Ordering::Relaxed);
        let total = descriptors.total;
        let of_containers = descriptors.fixed.fetch_add(fixed, Ordering::Relaxed);
        // Given back with it, also if it comes to nothing.
        let allowance = Allowance {
            limits: [limits.sockets, limits.files, limits.lookups],
            used: Default::default(),
            told: Default::default(),
            fixed,
            descriptors,
            log,
        };
        if fixed > total {
            return Err(NoRoom::Never { total, fixed });
        }
        // What containers have from the beginning must leave something to open; what is open now may be closed soon.
        if others > 0 && (of_containers + fixed > most_fixed(total) || used + fixed > total) {
            return Err(NoRoom::Full { used, total, fixed });
        }
        Ok(Arc::new(allowance))
    }

    /// One more, until it is dropped.
    pub(super) fn take(self: &Arc<Self>, kind: Kind) -> Result<Held, Refused> {
        let limit = self.limits[kind.index()];
        let own = self.used[kind.index()].fetch_add(1, Ordering::Relaxed);
        let used = self.descriptors.used.fetch_add(1, Ordering::Relaxed);
        // Gives both back if it comes to nothing.
        let held = Held { of: self.clone(), kind };
        if own >= limit {
            self.tell(kind, &format!("the limit of {limit} is reached (annotation {})", kind.words().1));
            return Err(Refused);
        }
        let containers = self.descriptors.containers.load(Ordering::Relaxed);
        let all_own: usize = self.used.iter().map(|used| used.load(Ordering::Relaxed)).sum();
        if !may_open(self.descriptors.total, used, containers, all_own - 1) {
            self.tell(kind, "this node's limit of open files is nearly reached, and this container has its part");
            return Err(Refused);
        }
        Ok(held)
    }

    /// Once for each kind: whoever hits a limit hits it often.
    fn tell(&self, kind: Kind, what: &str) {
        if !self.told[kind.index()].swap(true, Ordering::Relaxed) {
            self.log.say(&format!("coracle: {}: {what}", kind.words().0));
        }
    }
}

impl Drop for Allowance {
    fn drop(&mut self) {
        self.descriptors.used.fetch_sub(self.fixed, Ordering::Relaxed);
        self.descriptors.fixed.fetch_sub(self.fixed, Ordering::Relaxed);
        self.descriptors.containers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Something that is open.
#[derive(Debug)]
pub(super) struct Held {
    of: Arc<Allowance>,
    kind: Kind,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.of.used[self.kind.index()].fetch_sub(1, Ordering::Relaxed);
        self.of.descriptors.used.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::log::LogWriter;
    use super::*;
    use crate::clock::Clock;
    use crate::wire::LogLimits;

    fn allowance(sockets: usize, descriptors: &Arc<Descriptors>) -> Arc<Allowance> {
        let writer = LogWriter::start().expect("a thread can be started");
        let log = writer.log(None, Clock::stepping(0), LogLimits::default());
        let limits = GuestLimits { sockets, ..GuestLimits::default() };
        Allowance::new(&limits, 2, descriptors.clone(), log).expect("there is room")
    }

    fn take_all(of: &Arc<Allowance>) -> Vec<Held> {
        std::iter::from_fn(|| of.take(Kind::Socket).ok()).collect()
    }

    #[test]
    fn a_container_has_its_limit_and_gets_back_what_it_closes() {
        let descriptors = Descriptors::new(10_000);
        let own = allowance(5, &descriptors);
        let mut held = take_all(&own);
        assert_eq!(held.len(), 5);
        assert!(own.take(Kind::File).is_ok(), "files are counted by themselves");
        held.pop();
        assert_eq!(take_all(&own).len(), 1);
        drop(held);
        assert_eq!(take_all(&own).len(), 5);
        drop(own);
        assert_eq!(descriptors.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_greedy_container_leaves_its_neighbours_their_part() {
        let descriptors = Descriptors::new(RESERVE + 1000);
        let (greedy, modest) = (allowance(100_000, &descriptors), allowance(100_000, &descriptors));
        let all = take_all(&greedy);
        assert!((740..760).contains(&all.len()), "{}", all.len());
        assert_eq!(take_all(&modest).len(), 125, "half of the quarter that is left over");
        drop(all);
        assert!(take_all(&modest).len() > 700);
    }

    #[test]
    fn a_container_that_does_not_fit_is_refused_in_words() {
        let descriptors = Descriptors::new(0);
        let new = |fixed: usize| {
            let writer = LogWriter::start().expect("a thread can be started");
            let log = writer.log(None, Clock::stepping(0), LogLimits::default());
            Allowance::new(&GuestLimits::default(), fixed, descriptors.clone(), log)
        };
        let never = new(RESERVE + 1).expect_err("more than there is");
        assert!(matches!(never, NoRoom::Never { .. }) && never.to_string().contains("LimitNOFILE"), "{never}");

        // Half may be had from the beginning; the first is taken in even if it has all of it.
        let first = new(RESERVE / 2 - 3).expect("there is room");
        let second = new(3).expect("there is just room");
        let full = new(1).expect_err("the rest is for what they open");
        assert!(matches!(full, NoRoom::Full { .. }), "{full}");
        drop(second);
        new(3).expect("there is room again");
        drop(first);
        assert_eq!(descriptors.fixed.load(Ordering::Relaxed), 0);
        new(RESERVE).expect("alone");
    }
}
