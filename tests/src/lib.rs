//! coracle-tests
