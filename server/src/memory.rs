//! Keeps what the process holds of the host's memory near to what it uses: glibc's allocator makes eight arenas for each
//! core, keeps what each of them ever had, and gives back only what lies on top.

/// To be called before there are threads.
#[cfg(target_env = "gnu")]
pub(crate) fn keep_small() {
    // One for the thread that makes and one for the thread that frees. What threads need often they have in caches of
    // their own; every arena more costs more memory than it saves time.
    const ARENAS: libc::c_int = 2;
    // SAFETY: mallopt only sets numbers of the allocator, and no other thread is allocating yet.
    #[allow(unsafe_code, reason = "the allocator's settings have no safe binding")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
    }
}

/// Gives back what a burst took and left. Takes about a millisecond for each hundred megabytes.
#[cfg(target_env = "gnu")]
pub(crate) fn give_back() {
    // SAFETY: malloc_trim takes the allocator's own locks, touches nothing that is in use, and may be called anywhere.
    #[allow(unsafe_code, reason = "the allocator's settings have no safe binding")]
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(not(target_env = "gnu"))]
pub(crate) fn keep_small() {}

#[cfg(not(target_env = "gnu"))]
pub(crate) fn give_back() {}
