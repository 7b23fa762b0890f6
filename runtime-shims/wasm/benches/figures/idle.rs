//! What pods cost that nobody asks anything, how fast they come, and how fast the first answer is.

use std::path::Path;

use coracle_cri::v1::*;
use futures::{StreamExt, TryStreamExt};
use tokio::time::Instant;

use super::load::{Client, Measured};
use super::process::{Memory, memory_of};
use super::shim::{Pod, Shim};
use super::{Scale, address, plain};

/// As many as an agent's workers would ask for at once.
const AT_ONCE: usize = 32;

pub(crate) async fn run(scale: &Scale) -> anyhow::Result<()> {
    println!("\nidle HTTP pods");
    let shim = super::shim().await;
    let first = shim.run("first", plain()).await;
    Client::connect(address(&first), "/").await?.ask().await?;
    let none = memory();
    println!("  no pod but one: {}", shown(none));

    let mut ready = Vec::new();
    for number in 0..(scale.pods[0] / 10) {
        let start = Instant::now();
        let pod = shim.run(&format!("alone-{number}"), plain()).await;
        tokio::net::TcpStream::connect(address(&pod)).await?;
        ready.push(start.elapsed());
        remove(&shim, pod).await?;
    }
    let ready = Measured::of(ready, std::time::Duration::from_secs(1));
    println!(
        "  create to listening, one after the other: p50 {:.2} ms, p99 {:.2} ms",
        ready.percentile_ms(0.5),
        ready.percentile_ms(0.99)
    );

    let mut pods: Vec<Pod> = Vec::new();
    for wanted in scale.pods {
        let from = pods.len();
        let start = Instant::now();
        let more: Vec<Pod> = futures::stream::iter(from..wanted)
            .map(|number| {
                let (shim, name) = (&shim, format!("pod-{number}"));
                async move { anyhow::Ok(shim.run(&name, plain().env("POD_NAME", &name)).await) }
            })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        let rate = more.len() as f64 / start.elapsed().as_secs_f64();
        pods.extend(more);
        let now = memory();
        println!(
            "  {wanted} pods: {}; {:.1} KiB a pod (goal 60), shared pages counted once; {rate:.0} pods/s over CRI",
            shown(now),
            now.proportional.saturating_sub(none.proportional) as f64 / wanted as f64,
        );
        let mut first = Vec::new();
        for pod in pods.iter().skip(from).take(200) {
            let start = Instant::now();
            Client::connect(address(pod), "/").await?.ask().await?;
            first.push(start.elapsed());
        }
        let first = Measured::of(first, std::time::Duration::from_secs(1));
        println!(
            "  first request to one of {wanted} idle pods, connection included: p50 {:.2} ms, p99 {:.2} ms (goal 3)",
            first.percentile_ms(0.5),
            first.percentile_ms(0.99)
        );
    }
    Ok(())
}

fn memory() -> Memory {
    memory_of(Path::new(env!("CARGO_BIN_EXE_coracle-shim-wasm")))
}

fn shown(memory: Memory) -> String {
    format!(
        "{:.1} MiB in {} processes ({:.1} MiB with shared pages counted once)",
        memory.resident as f64 / 1024.0,
        memory.processes,
        memory.proportional as f64 / 1024.0
    )
}

async fn remove(shim: &Shim, pod: Pod) -> anyhow::Result<()> {
    let request = RemovePodSandboxRequest { pod_sandbox_id: pod.sandbox };
    shim.runtime().remove_pod_sandbox(request).await?;
    Ok(())
}
