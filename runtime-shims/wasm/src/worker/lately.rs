//! Who takes much of the threads that serve while others run, by what it has used or because one of its guests did not end
//! in a slice: such a container goes on elsewhere ([`super::busy`]). So does one that follows at once on one that ended by
//! itself, until it has shown that it is no such thing: it would else have a slice of the others' threads each time it is
//! started. One that is alone may have them for itself.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::fair::Member;

/// Who has used so much lately takes much,
const MUCH_NS: u64 = 5_000_000;
/// until it is forgotten down to so much.
const LITTLE_NS: u64 = 1_000_000;
/// More is not held against anybody.
const MOST_NS: u64 = 20_000_000;
/// For so long after a guest was interrupted the others of its container are taken for such.
const INTERRUPTED: Duration = Duration::from_millis(8);
/// Who held a thread for so long at once was in a call that cannot be interrupted, such as one that fills a memory,
const HELD_NS: u64 = 5_000_000;
/// and is taken for such for so many times as long: others may have it again, for that part of the time.
const HELD_TIMES: u32 = 50;
/// Who follows on another after more than this does not come again and again: an agent makes such pauses.
const AGAIN: Duration = Duration::from_secs(10);
/// Half a thread, whatever a container asked for.
const LEAST_SHARE: u64 = 512;
/// Who ran so many ticks ago, a tenth of a second in which guests run, is still thought of.
const COMPANY_TICKS: u64 = 100;

/// What a container has used lately. What it may have is taken off as time passes, its request or half a thread: who
/// needs less takes little, however often it comes.
#[derive(Debug)]
pub(super) struct Lately {
    recent: Mutex<Recent>,
    /// It follows on one that ended by itself, and none of its guests has given back a thread yet before its slice was over.
    on_trial: AtomicBool,
}

#[derive(Debug)]
struct Recent {
    /// Of 1,024 for a thread.
    share: u64,
    ns: u64,
    at: Option<Instant>,
    much: bool,
    /// Much by what one of its guests did, whatever it has used.
    until: Option<Instant>,
}

impl Lately {
    pub(super) fn new(weight: u64) -> Lately {
        let share = weight.max(LEAST_SHARE);
        let recent = Mutex::new(Recent { share, ns: 0, at: None, much: false, until: None });
        Lately { recent, on_trial: AtomicBool::new(false) }
    }

    pub(super) fn set_weight(&self, weight: u64) {
        self.recent.lock().share = weight.max(LEAST_SHARE);
    }

    pub(super) fn add(&self, ns: u64) {
        let mut recent = self.recent.lock();
        recent.ns = recent.ns.saturating_add(ns).min(MOST_NS);
    }

    /// The container before it in its place ended by itself a moment ago.
    pub(super) fn comes_again(&self) {
        self.on_trial.store(true, Ordering::Relaxed);
    }

    /// One of its guests gave a thread back by itself.
    pub(super) fn gave_back(&self) {
        // Nearly always it is so already.
        if self.on_trial.load(Ordering::Relaxed) {
            self.on_trial.store(false, Ordering::Relaxed);
        }
    }

    /// One of its guests computed for a slice and did not end: the others are not tried one after another, for a while.
    pub(super) fn interrupted(&self, now: Instant) {
        self.recent.lock().keep_until(now + INTERRUPTED);
    }

    /// One of its guests had a thread for so long at once.
    pub(super) fn held(&self, ns: u64, now: Instant) {
        if ns >= HELD_NS {
            self.recent.lock().keep_until(now + HELD_TIMES * Duration::from_nanos(ns));
        }
    }

    pub(super) fn is_much(&self, now: Instant) -> bool {
        let mut recent = self.recent.lock();
        let before = recent.at.unwrap_or(now);
        // Another thread may have looked at the clock later and come first.
        recent.at = Some(before.max(now));
        let forgotten = now.saturating_duration_since(before).as_nanos() * u128::from(recent.share) / 1024;
        recent.ns = recent.ns.saturating_sub(u64::try_from(forgotten).unwrap_or(u64::MAX));
        recent.much = recent.ns > if recent.much { LITTLE_NS } else { MUCH_NS };
        self.on_trial.load(Ordering::Relaxed) || recent.much || recent.until.is_some_and(|until| now < until)
    }
}

impl Recent {
    fn keep_until(&mut self, until: Instant) {
        self.until = self.until.max(Some(until));
    }
}

/// Where containers ended by themselves a moment ago: a sandbox, and the container's name in it.
#[derive(Debug, Default)]
pub(super) struct Predecessors(Mutex<HashMap<(String, String), Instant>>);

impl Predecessors {
    pub(super) fn add(&self, place: &(String, String), now: Instant) {
        let mut ended = self.0.lock();
        ended.retain(|_, at| now < *at + AGAIN);
        ended.insert(place.clone(), now);
    }

    pub(super) fn has(&self, place: &(String, String), now: Instant) -> bool {
        self.0.lock().get(place).is_some_and(|at| now < *at + AGAIN)
    }
}

/// Whether more than one container runs, wherever it does.
#[derive(Debug, Default)]
pub(super) struct Company {
    last: AtomicU64,
    /// Until when those are thought of who came before the last one.
    met: AtomicU64,
}

impl Company {
    /// `member` is here; were others, lately?
    pub(super) fn meets(&self, member: Member, tick: u64) -> bool {
        if self.last.load(Ordering::Relaxed) != member {
            let before = self.last.swap(member, Ordering::Relaxed);
            // Another thread may have noted the same member meanwhile.
            if before != NOBODY && before != member {
                self.met.store(tick + COMPANY_TICKS, Ordering::Relaxed);
            }
        }
        tick < self.met.load(Ordering::Relaxed)
    }

    /// `member` is no more: who comes next does not meet it.
    pub(super) fn leaves(&self, member: Member) {
        let _was_another = self.last.compare_exchange(member, NOBODY, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// No container has this number.
const NOBODY: Member = 0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_again_is_kept_from_the_others_threads_until_it_gives_one_back() {
        let (ended, start) = (Predecessors::default(), Instant::now());
        let place = |name: &str| ("sandbox".to_owned(), name.to_owned());
        ended.add(&place("a"), start);
        assert!(ended.has(&place("a"), start + AGAIN - Duration::from_nanos(1)));
        assert!(!ended.has(&place("a"), start + AGAIN));
        assert!(!ended.has(&place("b"), start));
        ended.add(&place("b"), start + AGAIN);
        assert_eq!(ended.0.lock().len(), 1, "what is long ago is forgotten");
        let lately = Lately::new(1024);
        assert!(!lately.is_much(start));
        lately.comes_again();
        assert!(lately.is_much(start));
        lately.gave_back();
        assert!(!lately.is_much(start));
    }

    #[test]
    fn who_asked_for_more_may_take_more() {
        let lately = Lately::new(1536);
        let start = Instant::now();
        for millisecond in 0..100 {
            assert!(!lately.is_much(start + Duration::from_millis(millisecond)));
            lately.add(1_500_000);
        }
        lately.set_weight(1024);
        assert!((100..200).any(|millisecond| {
            lately.add(1_500_000);
            lately.is_much(start + Duration::from_millis(millisecond))
        }));
    }

    #[test]
    fn half_of_the_time_that_passes_is_forgotten() {
        let lately = Lately::new(2);
        let start = Instant::now();
        let after = |ns| start + Duration::from_nanos(ns);
        assert!(!lately.is_much(start));
        lately.add(MUCH_NS);
        assert!(!lately.is_much(start), "that much is allowed");
        lately.add(1);
        assert!(lately.is_much(start));
        assert!(lately.is_much(after(2 * (MUCH_NS - LITTLE_NS))));
        assert!(lately.is_much(start), "the clock of another thread");
        assert!(!lately.is_much(after(2 * (MUCH_NS - LITTLE_NS) + 2)));
        lately.add(10 * MOST_NS);
        assert!(!lately.is_much(after(2 * MOST_NS + 2 * MUCH_NS)), "more is not remembered");
    }

    #[test]
    fn who_does_not_end_in_a_slice_takes_much_for_a_while() {
        let lately = Lately::new(1024);
        let start = Instant::now();
        assert!(!lately.is_much(start));
        lately.interrupted(start);
        assert!(lately.is_much(start + INTERRUPTED - Duration::from_nanos(1)));
        assert!(!lately.is_much(start + INTERRUPTED));
    }

    #[test]
    fn who_holds_a_thread_in_one_call_is_kept_from_it_for_long() {
        let lately = Lately::new(1024);
        let start = Instant::now();
        lately.held(HELD_NS - 1, start);
        assert!(!lately.is_much(start));
        let second = Duration::from_secs(1);
        lately.held(1_000_000_000, start);
        lately.interrupted(start);
        assert!(lately.is_much(start + 49 * second), "a short time does not end a long one");
        assert!(!lately.is_much(start + 50 * second));
    }

    #[test]
    fn who_is_alone_is_alone_again_after_a_while() {
        let company = Company::default();
        assert!(!company.meets(1, 7), "nobody was here before");
        assert!(!company.meets(1, 8));
        assert!(company.meets(2, 10));
        assert!(company.meets(2, 10 + COMPANY_TICKS - 1));
        assert!(!company.meets(2, 10 + COMPANY_TICKS));
        assert!(company.meets(1, 500));
        let company = Company::default();
        assert!(!company.meets(1, 7));
        company.leaves(1);
        assert!(!company.meets(2, 8), "it came when the other was gone");
        company.leaves(1);
        assert!(company.meets(3, 9));
    }
}
