//! The allocator of the whole program: many small objects live as long as their pods, and bursts come from all threads.
//! glibc's own spent a quarter of the processor on its locks then, and kept what a burst had taken.

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;
