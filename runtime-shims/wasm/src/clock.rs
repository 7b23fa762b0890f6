//! Wall time and identifiers come from here, so that a test can hold both still.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Nanoseconds since the Unix epoch, as CRI counts time.
pub type UnixNanos = i64;

/// Where wall time comes from.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> UnixNanos + Send + Sync>);

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Clock {
        Clock(Arc::new(system_now))
    }

    /// A clock that starts at `start` and moves one millisecond each time it is read.
    pub fn stepping(start: UnixNanos) -> Clock {
        let next = AtomicU64::new(u64::try_from(start).unwrap_or(0));
        Clock(Arc::new(move || i64::try_from(next.fetch_add(1_000_000, Ordering::Relaxed)).unwrap_or(i64::MAX)))
    }

    pub fn now(&self) -> UnixNanos {
        (self.0)()
    }
}

#[allow(clippy::disallowed_methods, reason = "this is the one place where the shim reads the machine's clock")]
fn system_now() -> UnixNanos {
    match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
        // A board without a battery may boot before 1970; CRI has no negative times.
        Err(_) => 0,
    }
}

/// Where identifiers come from: 64 hexadecimal digits, as containerd gives them.
#[derive(Clone)]
pub struct Ids(Arc<dyn Fn() -> [u8; 32] + Send + Sync>);

impl fmt::Debug for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ids")
    }
}

impl Ids {
    /// From the kernel's random source.
    pub fn random() -> Ids {
        Ids(Arc::new(kernel_random))
    }

    /// Counting up from one; for tests.
    pub fn counting() -> Ids {
        let next = AtomicU64::new(1);
        Ids(Arc::new(move || {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&next.fetch_add(1, Ordering::Relaxed).to_be_bytes());
            bytes
        }))
    }

    pub fn next(&self) -> String {
        hex(&(self.0)())
    }
}

#[allow(unsafe_code)]
fn kernel_random() -> [u8; 32] {
    let mut bytes = [0_u8; 32];
    // SAFETY: the pointer and the length describe the array above. 32 bytes are never cut short or interrupted.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    assert_eq!(got, 32, "getrandom(2) fills up to 256 bytes at once on every kernel that has it");
    bytes
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
