//! The allocator of the whole program: many small objects live as long as their pods, and bursts come from all threads.
//! glibc's own spent a quarter of the processor on its locks then, and kept what a burst had taken.

use std::cell::Cell;
use std::time::{Duration, Instant};

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// A thread's own pages are looked through no more often than this.
const PAUSE: Duration = Duration::from_secs(2);

thread_local! {
    static LAST: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// To be called by a thread that has nothing to do. What other threads freed of its pages is only noticed when it
/// allocates of them again, which after a burst it may not do for long.
#[allow(unsafe_code)]
pub(crate) fn give_back() {
    let now = Instant::now();
    let due = LAST.get().is_none_or(|last| now.saturating_duration_since(last) >= PAUSE);
    if due {
        LAST.set(Some(now));
        // SAFETY: it takes no pointers, and may be called by any thread at any time.
        unsafe { libmimalloc_sys::mi_collect(true) }
    }
}
