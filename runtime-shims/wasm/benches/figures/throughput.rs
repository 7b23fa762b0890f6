//! Requests per second of one pod, beside `wasmtime serve` with the same component.

use std::net::SocketAddr;
use std::time::Duration;

use super::load::{Measured, flat_out, lightly};
use super::shim::Shim;
use super::{Scale, address, plain, ratio, serve, shim};

const CONNECTIONS: usize = 32;

pub(crate) async fn run(scale: &Scale) -> anyhow::Result<()> {
    println!("\nthroughput of one pod, {CONNECTIONS} connections");
    let shim = shim().await;
    let pod = address(&shim.run("plain", plain()).await);
    let component = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/plain/plain.wasm");
    let other = serve::start(&component).await?;
    // Nothing, a line to the standard output of WASI 0.2, and one that comes there through an adapter from 0.1, which has
    // the guest's memory grow: three calls to the kernel more, and whatever else they cost in the host at hand.
    let paths = ["/", "/line", "/log"];
    let mut ours = paths.map(|_| Measured::default());
    let mut theirs = paths.map(|_| Measured::default());
    for _ in 0..scale.rounds {
        for (place, path) in paths.into_iter().enumerate() {
            ours[place].add(flat_out(pod, path, CONNECTIONS, scale.seconds).await?);
            if let Some(other) = &other {
                theirs[place].add(flat_out(other.at, path, CONNECTIONS, scale.seconds).await?);
            }
        }
    }
    let [quiet, line, adapted] = &ours;
    show("a pod", quiet);
    show("a pod, a line of log per request", line);
    println!("  which leaves {} (goal 0.8)", ratio(line.per_second(), quiet.per_second()));
    show("a pod, a line per request through the adapter from WASI 0.1", adapted);
    println!("  which leaves {} (goal 0.8)", ratio(adapted.per_second(), quiet.per_second()));
    match &other {
        Some(other) => {
            println!("  {} serve -Scli -Opooling-allocator, its output to /dev/null:", other.version);
            let [their_quiet, their_line, their_adapted] = &theirs;
            show("without a line", their_quiet);
            println!("  of which the pod has {} (goal 1)", ratio(quiet.per_second(), their_quiet.per_second()));
            show("with one", their_line);
            println!("  of which the pod has {}", ratio(line.per_second(), their_line.per_second()));
            show("with one through the adapter", their_adapted);
            println!("  of which the pod has {}", ratio(adapted.per_second(), their_adapted.per_second()));
        }
        None => println!("  wasmtime serve {}", serve::HOW_TO_GET_IT),
    }
    drop(other);
    accompanied(scale, &shim, pod).await?;
    among_idle(scale, pod).await
}

/// What it costs a busy pod to make room for one that is hardly asked.
async fn accompanied(scale: &Scale, shim: &Shim, pod: SocketAddr) -> anyhow::Result<()> {
    let other = address(&shim.run("other", plain()).await);
    let (mut alone, mut beside) = (Measured::default(), Measured::default());
    for _ in 0..scale.rounds {
        alone.add(flat_out(pod, "/", CONNECTIONS, scale.seconds).await?);
        let (_, accompanied) = tokio::join!(
            lightly(other, 1, Duration::from_millis(100), tokio::time::sleep(scale.seconds)),
            flat_out(pod, "/", CONNECTIONS, scale.seconds)
        );
        beside.add(accompanied?);
    }
    show("a pod while another one is asked ten times a second", &beside);
    println!("  which is {} of it alone", ratio(beside.per_second(), alone.per_second()));
    Ok(())
}

/// In another shim, so that both are measured in turns.
async fn among_idle(scale: &Scale, pod: SocketAddr) -> anyhow::Result<()> {
    let crowd = shim().await;
    let among = address(&crowd.run("plain", plain()).await);
    for number in 0..scale.pods[0] {
        crowd.run(&format!("idle-{number}"), plain()).await;
    }
    let (mut alone, mut crowded) = (Measured::default(), Measured::default());
    for _ in 0..scale.rounds {
        alone.add(flat_out(pod, "/", CONNECTIONS, scale.seconds).await?);
        crowded.add(flat_out(among, "/", CONNECTIONS, scale.seconds).await?);
    }
    show(&format!("a pod among {} idle ones", scale.pods[0]), &crowded);
    println!("  which is {} of one alone", ratio(crowded.per_second(), alone.per_second()));
    Ok(())
}

fn show(what: &str, measured: &Measured) {
    println!(
        "  {what}: {:.0}/s, p50 {:.2} ms, p99 {:.2} ms",
        measured.per_second(),
        measured.percentile_ms(0.5),
        measured.percentile_ms(0.99)
    );
}
