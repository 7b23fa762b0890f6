//! A scripted runtime in memory.
