//! The API server over its TLS listener, as clients of all kinds meet it: identities, limits, encodings, and many at once.
//! Runs in real time on loopback; what takes long has a deadline and nothing is asserted about how long it took.

mod concurrency;
mod identity;
mod limits;
mod link;
mod nodes;
mod site;
mod watches;

use std::time::Duration;

/// Runs a test on a runtime of several threads, with a deadline that only a broken run reaches.
fn within_deadline(test: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let outcome = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), test).await });
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome.expect("the test finishes");
}
