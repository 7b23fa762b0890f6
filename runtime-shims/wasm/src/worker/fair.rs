//! Who runs next when more guests want to compute than there are threads: a container that has had less than its weight
//! says goes first. The queue is decided here, synchronously; [`Turns`] lets guests wait in it.
//!
//! Guests that compute for less than a slice at a time never get here: only one that was interrupted waits for a turn.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Containers, by number.
pub(super) type Member = u64;

/// Processor time divided by weight: equal for all who are treated equally.
type Virtual = u64;

/// The weight of a container that asked for one processor.
const UNIT: u64 = 1024;

/// The queue. `W` is whatever waits.
#[derive(Debug)]
pub(super) struct FairQueue<W> {
    slots: usize,
    running: usize,
    /// What the last one to be let in had had. Who comes back from idling starts here: time not used is not saved up.
    floor: Virtual,
    members: HashMap<Member, Share<W>>,
    /// Those who have somebody waiting.
    order: BTreeSet<(Virtual, Member)>,
}

#[derive(Debug)]
struct Share<W> {
    weight: u64,
    had: Virtual,
    waiting: VecDeque<W>,
}

impl<W> FairQueue<W> {
    pub(super) fn new(slots: usize) -> FairQueue<W> {
        FairQueue { slots, running: 0, floor: 0, members: HashMap::new(), order: BTreeSet::new() }
    }

    pub(super) fn join(&mut self, member: Member, weight: u64) {
        let share = Share { weight: weight.max(1), had: self.floor, waiting: VecDeque::new() };
        self.members.insert(member, share);
    }

    pub(super) fn leave(&mut self, member: Member) {
        if let Some(share) = self.members.remove(&member) {
            self.order.remove(&(share.had, member));
        }
    }

    pub(super) fn set_weight(&mut self, member: Member, weight: u64) {
        if let Some(share) = self.members.get_mut(&member) {
            share.weight = weight.max(1);
        }
    }

    /// Notes what a member has used.
    pub(super) fn charge(&mut self, member: Member, ns: u64) {
        let Some(share) = self.members.get_mut(&member) else { return };
        let before = share.had;
        share.had = before.saturating_add(ns.saturating_mul(UNIT) / share.weight);
        if self.order.remove(&(before, member)) {
            self.order.insert((share.had, member));
        }
    }

    /// A turn at once, if one is free; else `waiter` waits. A member that is not known is not held up.
    pub(super) fn ask(&mut self, member: Member, waiter: W) -> Asked<W> {
        let Some(share) = self.members.get_mut(&member) else { return Asked::Go(waiter) };
        share.had = share.had.max(self.floor);
        if self.running < self.slots && self.order.is_empty() {
            self.running += 1;
            self.floor = self.floor.max(share.had);
            return Asked::Go(waiter);
        }
        if share.waiting.is_empty() {
            self.order.insert((share.had, member));
        }
        share.waiting.push_back(waiter);
        Asked::Wait
    }

    /// A slice is over, and who had it wants another: it goes on if nobody who waits has had less. Else it waits, and the
    /// first of the others is given.
    pub(super) fn again(&mut self, member: Member, waiter: W) -> (Asked<W>, Option<W>) {
        self.running = self.running.saturating_sub(1);
        let Some(share) = self.members.get_mut(&member) else { return (Asked::Go(waiter), self.next()) };
        if self.order.first().is_none_or(|(least, _)| share.had < *least) {
            self.running += 1;
            self.floor = self.floor.max(share.had);
            return (Asked::Go(waiter), None);
        }
        if share.waiting.is_empty() {
            self.order.insert((share.had, member));
        }
        share.waiting.push_back(waiter);
        (Asked::Wait, self.next())
    }

    /// A turn is over. Gives who is next, if there is room for one.
    pub(super) fn done(&mut self) -> Option<W> {
        self.running = self.running.saturating_sub(1);
        self.next()
    }

    pub(super) fn next(&mut self) -> Option<W> {
        if self.running >= self.slots {
            return None;
        }
        let (had, member) = self.order.pop_first()?;
        let share = self.members.get_mut(&member)?;
        let waiter = share.waiting.pop_front();
        if !share.waiting.is_empty() {
            self.order.insert((had, member));
        }
        self.floor = self.floor.max(had);
        self.running += 1;
        waiter
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked<W> {
    Go(W),
    Wait,
}

/// The queue that guests wait in.
#[derive(Debug)]
pub(super) struct Turns(Mutex<FairQueue<oneshot::Sender<Turn>>>);

/// The right to compute; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Turn(Option<Arc<Turns>>);

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turns) = self.0.take() {
            let next = turns.0.lock().done();
            turns.grant(next);
        }
    }
}

impl Turns {
    pub(super) fn new(threads: usize) -> Arc<Turns> {
        Arc::new(Turns(Mutex::new(FairQueue::new(threads))))
    }

    pub(super) fn join(&self, member: Member, weight: u64) {
        self.0.lock().join(member, weight);
    }

    pub(super) fn leave(&self, member: Member) {
        // What waited is dropped with its sender, outside of the lock: it may give back a turn.
        let mut queue = self.0.lock();
        queue.leave(member);
    }

    pub(super) fn set_weight(&self, member: Member, weight: u64) {
        self.0.lock().set_weight(member, weight);
    }

    pub(super) fn charge(&self, member: Member, ns: u64) {
        self.0.lock().charge(member, ns);
    }

    /// Waits for a turn, or for another after `before`; says whether it had to wait. Dropping the future gives it up.
    pub(super) async fn turn(self: &Arc<Turns>, member: Member, before: Option<Turn>) -> (Option<Turn>, bool) {
        let (sender, receiver) = oneshot::channel();
        let asked = match before {
            None => self.0.lock().ask(member, sender),
            Some(mut before) => {
                // Given back by `again`.
                before.0 = None;
                let (asked, next) = self.0.lock().again(member, sender);
                self.grant(next);
                asked
            }
        };
        match asked {
            Asked::Go(_) => (Some(Turn(Some(self.clone()))), false),
            // Without an answer the container is over, and so is whoever asked.
            Asked::Wait => (receiver.await.ok(), true),
        }
    }

    /// Hands a turn on; to the one after, if who waited has given up meanwhile.
    fn grant(self: &Arc<Turns>, mut next: Option<oneshot::Sender<Turn>>) {
        while let Some(waiter) = next.take() {
            if let Err(mut turn) = waiter.send(Turn(Some(self.clone()))) {
                // Given back here: a thousand who have given up must not nest a thousand deep.
                turn.0 = None;
                next = self.0.lock().done();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use futures::FutureExt;

    use super::*;

    /// Members that always want to compute, in slices of 5 ms, on `slots` threads, for `rounds` slices each thread: how
    /// many slices each gets. A member may have several instances.
    fn check(slots: usize, rounds: usize, members: &[(u64, usize)], expected: Expect) {
        let mut queue = FairQueue::new(slots);
        for (number, (weight, _)) in members.iter().enumerate() {
            queue.join(number as u64, *weight);
        }
        let mut running: VecDeque<u64> = VecDeque::new();
        for (number, (_, instances)) in members.iter().enumerate() {
            for _ in 0..*instances {
                if let Asked::Go(member) = queue.ask(number as u64, number as u64) {
                    running.push_back(member);
                }
            }
        }
        let mut got = vec![0; members.len()];
        for _ in 0..rounds {
            // All who run come to the end of a slice.
            for member in std::mem::take(&mut running) {
                got[usize::try_from(member).expect("small")] += 1;
                queue.charge(member, 5_000_000);
                let (asked, next) = queue.again(member, member);
                running.extend(next);
                if let Asked::Go(member) = asked {
                    running.push_back(member);
                }
            }
            let all: usize = members.iter().map(|(_, instances)| instances).sum();
            assert_eq!(running.len(), slots.min(all), "nobody waits while there is a free thread");
        }
        expected.assert_eq(&format!("{got:?}"));
    }

    #[test]
    fn busy_containers_share_by_weight() {
        check(1, 1000, &[(1024, 1), (1024, 1)], expect!["[500, 500]"]);
        check(1, 1000, &[(3072, 1), (1024, 1)], expect!["[750, 250]"]);
        check(1, 1026, &[(1024, 1), (2, 1)], expect!["[1024, 2]"]);
        check(2, 1200, &[(3072, 1), (1024, 1), (1024, 1), (1024, 1)], expect!["[1199, 401, 400, 400]"]);
    }

    #[test]
    fn many_instances_do_not_make_a_container_heavier() {
        check(2, 1000, &[(1024, 8), (1024, 2)], expect!["[1001, 999]"]);
    }

    #[test]
    fn what_one_cannot_use_goes_to_the_others() {
        // One instance cannot use two threads, whatever its weight.
        check(2, 1000, &[(100_000, 1), (2, 1)], expect!["[1000, 1000]"]);
        check(4, 100, &[(1024, 1)], expect!["[100]"]);
    }

    #[test]
    fn idling_is_not_saved_up() {
        let mut queue = FairQueue::new(1);
        queue.join(1, 1024);
        queue.join(2, 1024);
        assert_eq!(queue.ask(1, 'a'), Asked::Go('a'));
        for _ in 0..100 {
            queue.charge(1, 5_000_000);
            assert_eq!(queue.again(1, 'a'), (Asked::Go('a'), None));
        }
        // The second comes late: from here on they alternate.
        assert_eq!(queue.ask(2, 'b'), Asked::Wait);
        let mut order = String::new();
        let mut now = (1, 'a');
        for _ in 0..8 {
            queue.charge(now.0, 5_000_000);
            let (asked, next) = queue.again(now.0, now.1);
            assert_eq!(asked, Asked::Wait);
            let next = next.expect("the other waits");
            now = (if next == 'a' { 1 } else { 2 }, next);
            order.push(next);
        }
        expect!["babababa"].assert_eq(&order);
    }

    #[tokio::test]
    async fn a_turn_that_nobody_waits_for_any_more_goes_to_the_next() {
        let turns = Turns::new(1);
        for member in 1..=3 {
            turns.join(member, 1024);
        }
        let (first, waited) = turns.turn(1, None).await;
        assert!(first.is_some() && !waited);
        let mut given_up = Box::pin(turns.turn(2, None));
        let mut patient = Box::pin(turns.turn(3, None));
        assert!((&mut given_up).now_or_never().is_none() && (&mut patient).now_or_never().is_none());
        drop(given_up);
        drop(first);
        let (second, waited) = patient.now_or_never().expect("it is handed on");
        assert!(second.is_some() && waited);
        drop(second);
        turns.leave(2);
        assert!(turns.turn(1, None).now_or_never().is_some(), "nobody holds it");
    }
}
