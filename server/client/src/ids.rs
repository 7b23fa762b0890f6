//! Randomness and identifiers, injected, so that a seed replays a whole run.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use rand::{RngCore, SeedableRng, rngs::StdRng};
use sha2::{Digest as _, Sha256};

/// The shared source of ids and chance.
pub type Ids = Arc<dyn IdSource>;

/// Upstream's alphabet for generated names: no vowels and no look-alikes.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// A suffix as [`IdSource::suffix`] gives, but always the same of the same text; up to 16 characters.
pub fn suffix_of(text: &str, length: usize) -> String {
    assert!(length <= 16, "a suffix takes from half of a hash");
    let hash = Sha256::digest(text);
    let mut rest = hash[..16].iter().fold(0, |number, byte| number << 8 | u128::from(*byte));
    let mut next = || {
        let at = rest % ALPHABET.len() as u128;
        rest /= ALPHABET.len() as u128;
        char::from(ALPHABET[at as usize])
    };
    (0..length).map(|_| next()).collect()
}

/// A source of randomness; everything is derived from [`IdSource::u64`].
pub trait IdSource: Send + Sync + 'static {
    fn u64(&self) -> u64;

    /// A version 4 UUID in its usual text form.
    fn uuid(&self) -> String {
        let bytes = (u128::from(self.u64()) << 64 | u128::from(self.u64())).to_be_bytes();
        uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
    }

    /// `length` characters as upstream appends to `generateName`.
    fn suffix(&self, length: usize) -> String {
        (0..length).map(|_| char::from(ALPHABET[self.below(ALPHABET.len() as u64) as usize])).collect()
    }

    /// A number in `0..bound`; `bound` must not be 0.
    fn below(&self, bound: u64) -> u64 {
        // The bias of the multiplication is under 2^-32 for the bounds in use here.
        ((u128::from(self.u64()) * u128::from(bound)) >> 64) as u64
    }

    /// A duration in `[base, 2 * base)`: the jitter of client-go's backoffs.
    fn jitter(&self, base: Duration) -> Duration {
        let nanos = u64::try_from(base.as_nanos()).unwrap_or(u64::MAX);
        base + Duration::from_nanos(if nanos == 0 { 0 } else { self.below(nanos) })
    }
}

/// Seeded: from the operating system in production, from a number in tests.
pub struct RandomIds {
    rng: Mutex<StdRng>,
}

impl RandomIds {
    /// Seeds from the operating system.
    pub fn from_os() -> Ids {
        Arc::new(Self { rng: Mutex::new(StdRng::from_os_rng()) })
    }

    /// The same seed gives the same sequence.
    pub fn seeded(seed: u64) -> Ids {
        Arc::new(Self { rng: Mutex::new(StdRng::seed_from_u64(seed)) })
    }
}

impl IdSource for RandomIds {
    fn u64(&self) -> u64 {
        self.rng.lock().next_u64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_replays_and_the_forms_are_upstreams() {
        let (a, b) = (RandomIds::seeded(7), RandomIds::seeded(7));
        let uuid = a.uuid();
        assert_eq!(uuid, b.uuid());
        assert_eq!((uuid.len(), &uuid[14..15]), (36, "4"));
        let suffix = a.suffix(5);
        assert_eq!(suffix, b.suffix(5));
        assert!(suffix.len() == 5 && suffix.bytes().all(|c| ALPHABET.contains(&c)), "{suffix}");
        assert_ne!(RandomIds::seeded(8).uuid(), uuid);
        let derived = suffix_of("a", 5);
        assert_eq!(derived, suffix_of("a", 5));
        assert_ne!(derived, suffix_of("b", 5));
        assert!(derived.len() == 5 && derived.bytes().all(|c| ALPHABET.contains(&c)), "{derived}");
        let jittered = a.jitter(Duration::from_secs(1));
        assert!(jittered >= Duration::from_secs(1) && jittered < Duration::from_secs(2));
    }
}
