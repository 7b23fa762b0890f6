//! coracle-client
