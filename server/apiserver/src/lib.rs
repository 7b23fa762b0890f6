//! coracle-apiserver
