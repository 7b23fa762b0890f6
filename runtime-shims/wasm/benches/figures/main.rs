//! What pods cost, and what they do not notice of each other. Figures are printed beside what they are compared with,
//! taken in the same run, in turns.
//!
//! ```text
//! cargo bench -p coracle-shim-wasm                     everything, some minutes
//! cargo bench -p coracle-shim-wasm -- throughput       one part: throughput, idle, compile, neighbours
//! CORACLE_BENCH_SMALL=1 cargo bench …                  a few of each, to see that it works
//! CORACLE_BENCH_NEIGHBOUR=loops cargo bench …          only neighbours with this in their name
//! ```
#![allow(unreachable_pub, clippy::unwrap_used, reason = "a bench is no library")]
#![allow(clippy::print_stdout, reason = "figures are what it is for")]

#[allow(dead_code, reason = "shared with the tests")]
#[path = "../../tests/it/guests.rs"]
mod guests;
mod idle;
mod load;
mod neighbours;
mod process;
mod serve;
#[allow(dead_code, reason = "shared with the tests")]
#[path = "../../tests/it/shim.rs"]
mod shim;
mod throughput;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use coracle_cri::v1::*;
use shim::{Guest, Pod, Shim};

/// How much of everything.
pub(crate) struct Scale {
    pub(crate) seconds: Duration,
    pub(crate) rounds: usize,
    pub(crate) pods: [usize; 2],
    pub(crate) small: bool,
    /// Part of the names of the neighbours that are wanted.
    pub(crate) neighbour: String,
}

impl Scale {
    fn chosen() -> Scale {
        let small = std::env::var_os("CORACLE_BENCH_SMALL").is_some();
        let neighbour = std::env::var_os("CORACLE_BENCH_NEIGHBOUR").unwrap_or_default();
        let neighbour = neighbour.to_string_lossy().into_owned();
        match small {
            true => Scale { seconds: Duration::from_millis(500), rounds: 1, pods: [20, 40], small, neighbour },
            false => Scale { seconds: Duration::from_secs(5), rounds: 3, pods: [1000, 5000], small, neighbour },
        }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // `cargo bench` adds `--bench`.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let wants = |part: &str| wanted.is_empty() || wanted.iter().any(|name| name == part);
    let scale = Scale::chosen();
    if cfg!(debug_assertions) {
        println!("(unoptimised build: the figures say nothing)");
    }
    if wants("throughput") {
        throughput::run(&scale).await?;
    }
    if wants("idle") {
        idle::run(&scale).await?;
    }
    if wants("compile") {
        neighbours::compile(&scale).await?;
    }
    if wants("neighbours") {
        neighbours::hostile(&scale).await?;
    }
    Ok(())
}

/// The test guests, and the one that does as little as it can.
pub(crate) fn plain() -> Guest {
    shim::guest("plain")
}

/// A shim whose pods may be many.
pub(crate) async fn shim() -> Shim {
    shim_with(&[]).await
}

pub(crate) async fn shim_with(options: &[&str]) -> Shim {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let shim = Shim::start_with(options).await;
    let network: Vec<&str> = shim.range().split('.').take(2).collect();
    // Two may run beside each other.
    let part = NEXT.fetch_add(1, Ordering::Relaxed) % 8 * 32;
    let pod_cidr = format!("{}.{part}.0/19", network.join("."));
    let runtime_config = Some(RuntimeConfig { network_config: Some(NetworkConfig { pod_cidr }) });
    let request = UpdateRuntimeConfigRequest { runtime_config };
    shim.runtime().update_runtime_config(request).await.expect("the range is taken");
    shim
}

pub(crate) fn address(pod: &Pod) -> SocketAddr {
    SocketAddr::new(pod.ip.parse().expect("an address"), 8080)
}

pub(crate) fn ratio(one: f64, other: f64) -> String {
    format!("{:.2} ×", one / other)
}
