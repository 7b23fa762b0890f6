//! The memory of the whole program: which allocator, and what is given back when nothing happens.
//!
//! Many small objects live as long as their pods, and bursts come from all threads: glibc's own allocator spent a quarter
//! of the processor on its locks then, and kept what a burst had taken.

use std::cell::Cell;
use std::time::Duration;

use mimalloc::MiMalloc;
use parking_lot::Mutex;
use rustix::mm::{Advice, madvise};
use tokio::time::Instant;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// A thread's own pages are looked through no more often than this.
const PAUSE: Duration = Duration::from_secs(2);
/// The start is over by then.
const START: Duration = Duration::from_secs(5);
/// And what a burst of work needed of the code is not needed again so soon.
const CODE: Duration = Duration::from_secs(30);

thread_local! {
    static LAST: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// To be called by a thread that has nothing to do.
pub(crate) fn give_back() {
    static RELEASE_AT: Mutex<Option<Instant>> = Mutex::new(None);
    let Some(now) = collect_in_time() else { return };
    let mut at = RELEASE_AT.lock();
    if now >= *at.get_or_insert(now + START) {
        *at = Some(now + CODE);
        drop(at);
        release_code();
    }
}

/// The same for a process that makes or loads code beside this program's own.
pub(crate) fn collect_when_idle() {
    collect_in_time();
}

/// When it is, if it was time.
fn collect_in_time() -> Option<Instant> {
    let now = Instant::now();
    if LAST.get().is_some_and(|last| now.saturating_duration_since(last) < PAUSE) {
        return None;
    }
    LAST.set(Some(now));
    collect();
    Some(now)
}

/// What other threads freed of this one's pages is only noticed when it allocates of them again, which after a burst it may
/// not do for long.
#[allow(unsafe_code)]
fn collect() {
    // SAFETY: it takes no pointers, and may be called by any thread at any time.
    unsafe { libmimalloc_sys::mi_collect(true) }
}

/// Code that only the start or a burst needed stays mapped as long as memory is not short: half of what this process has then.
/// What is needed again comes back from the page cache.
#[allow(unsafe_code)]
fn release_code() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
    for (start, length) in maps.lines().filter_map(code) {
        // SAFETY: the kernel fills these pages again from their file, and nothing of them was ever changed: the program has
        // no relocations in its code, and processes that make or load other code (the Wasm workers) do not call this.
        let advised = unsafe { madvise(std::ptr::with_exposed_provenance_mut(start), length, Advice::LinuxDontNeed) };
        if let Err(error) = advised {
            tracing::debug!(%error, "the code of the start stays mapped");
        }
    }
}

/// Where a line of the list of mappings says that there is a file's code, and how much.
fn code(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (range, rights) = (words.next()?, words.next()?);
    let file = words.nth(3)?;
    let (start, end) = range.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    (rights == "r-xp" && file.starts_with('/')).then_some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_files_is_released() {
        let code_line = "5555df000000-5555df200000 r-xp 00094000 fe:00 123 /usr/bin/coracle";
        assert_eq!(code(code_line), Some((0x5555_df00_0000, 0x20_0000)));
        for other in [
            "5555df000000-5555df200000 r--p 00094000 fe:00 123 /usr/bin/coracle",
            "5555df000000-5555df200000 rwxp 00094000 fe:00 123 /usr/bin/coracle",
            "7ffe00000000-7ffe00002000 r-xp 00000000 00:00 0 [vdso]",
            "7ffe00000000-7ffe00002000 r-xp 00000000 00:00 0",
            "",
        ] {
            assert_eq!(code(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_released_is_less_and_comes_back() {
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
            line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap()
        };
        let before = resident();
        release_code();
        let after = resident();
        assert!(after < before, "{before} kB, then {after} kB");
        assert_eq!(code("1000-2000 r-xp 0 fe:00 1 /bin/sh"), Some((0x1000, 0x1000)));
    }
}
