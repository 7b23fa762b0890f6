//! Which images are removed: those that nobody uses, the longest unused first, when the disk they lie on fills up or when
//! they have been unused for as long as they may be.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use coracle_cri::v1::Image;

use super::gauge::Level;

/// Kubelet's defaults: from 85 % used images are removed until 80 % are.
const HIGH_PERCENT: u64 = 85;
const LOW_PERCENT: u64 = 80;
/// A younger one may just have been pulled for a pod that is about to start.
pub(super) const AGE_MIN: Duration = Duration::from_secs(120);

/// What is known of the images of one runtime. Times are since the agent's start.
#[derive(Debug, Default)]
pub(super) struct Records {
    seen: BTreeMap<String, Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    detected: Duration,
    used: Option<Duration>,
    size: u64,
    pinned: bool,
}

/// An image that may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unused {
    pub(super) id: String,
    pub(super) size: u64,
    /// When it was last seen used, or first seen at all: what was before the agent's start is not known.
    since: Duration,
}

impl Records {
    /// Takes in what images there are; `used` says of each whether a container or a pod of this node needs it.
    pub(super) fn observe(&mut self, images: &[Image], used: impl Fn(&Image) -> bool, now: Duration) {
        let there: BTreeSet<&str> = images.iter().map(|image| image.id.as_str()).collect();
        self.seen.retain(|id, _| there.contains(id.as_str()));
        for image in images {
            let seen =
                self.seen.entry(image.id.clone()).or_insert(Seen { detected: now, used: None, size: 0, pinned: false });
            (seen.size, seen.pinned) = (image.size, image.pinned);
            if used(image) {
                seen.used = Some(now);
            }
        }
    }

    /// Those that nobody uses now, the longest unused first.
    pub(super) fn unused(&self, now: Duration) -> Vec<Unused> {
        let mut list: Vec<_> = self
            .seen
            .iter()
            .filter(|(_, seen)| seen.used != Some(now) && !seen.pinned && now.saturating_sub(seen.detected) >= AGE_MIN)
            .collect();
        list.sort_by_key(|(id, seen)| (seen.used, seen.detected, (*id).clone()));
        let unused = |(id, seen): (&String, &Seen)| Unused {
            id: id.clone(),
            size: seen.size,
            since: seen.used.unwrap_or(seen.detected),
        };
        list.into_iter().map(unused).collect()
    }

    /// Those that nobody has used for longer than that.
    pub(super) fn unused_longer(&self, age: Duration, now: Duration) -> Vec<Unused> {
        self.unused(now).into_iter().filter(|unused| now.saturating_sub(unused.since) > age).collect()
    }

    pub(super) fn removed(&mut self, id: &str) {
        self.seen.remove(id);
    }
}

/// How much of a disk is used, in percent, and how many bytes must go, if any.
pub(super) fn to_free(disk: Level) -> Option<(u64, u64)> {
    if disk.capacity == 0 {
        return None;
    }
    let used = 100 - (u128::from(disk.available) * 100 / u128::from(disk.capacity)).min(100);
    let used = u64::try_from(used).unwrap_or(100);
    (used >= HIGH_PERCENT).then(|| (used, (disk.capacity / 100 * (100 - LOW_PERCENT)).saturating_sub(disk.available)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: &str, pinned: bool) -> Image {
        Image { id: id.to_owned(), size: 7, pinned, ..Image::default() }
    }

    #[test]
    fn the_longest_unused_goes_first_and_the_young_stay() {
        let images = [image("a", false), image("b", false), image("c", true), image("d", false)];
        let (mut records, at) = (Records::default(), Duration::from_secs);
        let ids =
            |records: &Records, now| records.unused(at(now)).into_iter().map(|unused| unused.id).collect::<Vec<_>>();
        records.observe(&images[..3], |image| image.id == "a", at(0));
        records.observe(&images, |image| image.id == "d", at(300));
        assert_eq!(ids(&records, 300), ["b", "a"]);
        records.observe(&images, |_| false, at(419));
        assert_eq!(ids(&records, 419), ["b", "a"]);
        records.observe(&images[1..], |_| false, at(420));
        assert_eq!(ids(&records, 420), ["b", "d"]);
    }

    #[test]
    fn an_image_is_old_when_it_was_unused_for_long_since_it_was_first_seen() {
        let images = [image("a", false), image("b", true), image("c", false), image("d", false)];
        let (mut records, at) = (Records::default(), Duration::from_secs);
        let mut old = |images: &[Image], used: &str, now| {
            records.observe(images, |image| used.contains(&image.id), at(now));
            let old = records.unused_longer(at(1000), at(now));
            old.into_iter().map(|unused| unused.id).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(old(&images[..3], "c", 0), "");
        assert_eq!(old(&images, "c", 700), "");
        assert_eq!(old(&images, "c", 1000), "");
        assert_eq!(old(&images, "c", 1001), "a", "b is pinned, c is used, d was first seen later");
        assert_eq!(old(&images, "a", 1701), "d");
        assert_eq!(old(&images, "", 2002), "d c", "a was used again");
    }

    #[test]
    fn there_is_a_high_and_a_low_mark() {
        let disk = |available| Level { available, capacity: 1000 };
        assert_eq!(to_free(disk(160)), None);
        assert_eq!(to_free(disk(150)), Some((85, 50)));
        assert_eq!(to_free(disk(0)), Some((100, 200)));
        assert_eq!(to_free(Level::default()), None);
    }
}
