//! Who runs next when guests want to compute for long: a container that has had less than its weight says goes first.
//! Decided here, synchronously and without threads; [`super::busy`] has those.

use std::collections::{BTreeSet, HashMap, VecDeque};

/// Containers, by number.
pub(super) type Member = u64;

/// Processor time divided by weight: equal for all who are treated equally.
type Virtual = u64;

/// How far one that always computes may be behind the last one to be let in.
const LAG: Virtual = 100_000_000;
/// The weight of a container that asked for one processor.
const UNIT: u64 = 1024;

/// The queue. `W` is whatever waits.
#[derive(Debug)]
pub(super) struct FairQueue<W> {
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

impl<W> Default for FairQueue<W> {
    fn default() -> FairQueue<W> {
        FairQueue { floor: 0, members: HashMap::new(), order: BTreeSet::new() }
    }
}

impl<W> FairQueue<W> {
    pub(super) fn join(&mut self, member: Member, weight: u64) {
        let share = Share { weight: weight.max(1), had: self.floor, waiting: VecDeque::new() };
        self.members.insert(member, share);
    }

    /// Nobody of it waits any more: who waits keeps its container.
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

    /// `waiter` waits, behind the others of its container.
    pub(super) fn push(&mut self, member: Member, waiter: W) {
        let floor = self.floor;
        self.wait(member, floor, waiter);
    }

    /// A slice is over, and who had it wants another: it has not been idle, so what it had less than others stays its, up
    /// to a bound. A light one that runs only because there is room gets far ahead, and others begin where it is.
    pub(super) fn again(&mut self, member: Member, waiter: W) {
        let floor = self.floor.saturating_sub(LAG);
        self.wait(member, floor, waiter);
    }

    fn wait(&mut self, member: Member, floor: Virtual, waiter: W) {
        let share = self.members.get_mut(&member).expect("who waits has joined, and not left");
        if share.waiting.is_empty() {
            share.had = share.had.max(floor);
            self.order.insert((share.had, member));
        }
        share.waiting.push_back(waiter);
    }

    /// Who is next.
    pub(super) fn pop(&mut self) -> Option<W> {
        let (had, member) = self.order.pop_first()?;
        let share = self.members.get_mut(&member)?;
        let waiter = share.waiting.pop_front();
        if !share.waiting.is_empty() {
            self.order.insert((had, member));
        }
        self.floor = self.floor.max(had);
        waiter
    }

    /// Takes one out of the queue, if it is still there.
    pub(super) fn remove(&mut self, member: Member, is_it: impl FnMut(&W) -> bool) -> Option<W> {
        let share = self.members.get_mut(&member)?;
        let place = share.waiting.iter().position(is_it)?;
        let waiter = share.waiting.remove(place);
        if share.waiting.is_empty() {
            self.order.remove(&(share.had, member));
        }
        waiter
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    /// Members that always want to compute, in slices of 5 ms, on `slots` threads, for `rounds` slices each thread: how
    /// many slices each gets. A member may have several instances.
    fn check(slots: usize, rounds: usize, members: &[(u64, usize)], expected: Expect) {
        let mut queue = FairQueue::default();
        for (number, (weight, instances)) in members.iter().enumerate() {
            let member = number as u64;
            queue.join(member, *weight);
            for _ in 0..*instances {
                queue.push(member, member);
            }
        }
        let all: usize = members.iter().map(|(_, instances)| instances).sum();
        let mut got = vec![0; members.len()];
        let mut running: Vec<u64> = (0..slots).filter_map(|_| queue.pop()).collect();
        for _ in 0..rounds {
            assert_eq!(running.len(), slots.min(all), "nobody waits while there is a free thread");
            // All who run come to the end of a slice, one after the other.
            for place in &mut running {
                let member = *place;
                got[usize::try_from(member).expect("small")] += 1;
                queue.charge(member, 5_000_000);
                queue.again(member, member);
                *place = queue.pop().expect("one waits at least");
            }
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
        let mut queue = FairQueue::default();
        queue.join(1, 1024);
        queue.join(2, 1024);
        queue.push(1, 'a');
        for _ in 0..100 {
            assert_eq!(queue.pop(), Some('a'));
            queue.charge(1, 5_000_000);
            queue.again(1, 'a');
        }
        // The second comes late: from here on they alternate.
        queue.push(2, 'b');
        let mut order = String::new();
        for _ in 0..8 {
            let next = queue.pop().expect("both want more");
            order.push(next);
            let member = if next == 'a' { 1 } else { 2 };
            queue.charge(member, 5_000_000);
            queue.again(member, next);
        }
        expect!["babababa"].assert_eq(&order);
    }

    #[test]
    fn a_light_neighbour_gives_nobody_a_monopoly() {
        let mut queue = FairQueue::default();
        for (member, weight) in [(0, 1024), (1, 2), (2, 1024), (3, 1024)] {
            queue.join(member, weight);
        }
        let mut got = [0_usize; 4];
        let mut rounds = |queue: &mut FairQueue<u64>, running: &mut [u64; 2], rounds: usize| {
            for _ in 0..rounds {
                for place in running.iter_mut() {
                    got[usize::try_from(*place).expect("small")] += 1;
                    queue.charge(*place, 1_000_000);
                    queue.again(*place, *place);
                    *place = queue.pop().expect("one waits at least");
                }
            }
            std::mem::take(&mut got)
        };
        // Two threads, and two who want them: the light one has a whole thread, and is soon far ahead.
        let mut running = [0, 1];
        assert_eq!(rounds(&mut queue, &mut running, 10_000), [10_000, 10_000, 0, 0]);
        queue.push(2, 2);
        queue.push(3, 3);
        let [heavy, light, second, third] = rounds(&mut queue, &mut running, 3_000);
        assert!(light < 20, "{light}");
        assert!(heavy.abs_diff(second) < 200 && second.abs_diff(third) < 200, "{heavy} {second} {third}");
    }

    #[test]
    fn who_is_called_off_is_gone_and_holds_up_nobody() {
        let mut queue = FairQueue::default();
        queue.join(1, 1024);
        queue.join(2, 1024);
        for waiter in ["a", "b"] {
            queue.push(1, waiter);
        }
        queue.push(2, "c");
        assert_eq!(queue.remove(1, |waiter| *waiter == "a"), Some("a"));
        assert_eq!(queue.remove(1, |waiter| *waiter == "a"), None);
        assert_eq!(queue.remove(1, |waiter| *waiter == "b"), Some("b"));
        assert_eq!((queue.pop(), queue.pop()), (Some("c"), None));
        queue.leave(1);
        assert_eq!(queue.remove(1, |_| true), None);
    }
}
