//! coracle-scheduler
