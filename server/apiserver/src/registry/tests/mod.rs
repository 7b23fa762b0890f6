//! The registry's behaviour, seen through HTTP: scripts of requests and their answers.

mod deletes;
mod hostile;
mod lists;
mod services;
mod subresources;
mod watches;
mod writes;
