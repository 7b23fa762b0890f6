//! coracle-api
