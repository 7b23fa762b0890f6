//! Requests per second of one pod, beside `wasmtime serve` with the same component.

use super::load::{Measured, flat_out};
use super::{Scale, address, plain, ratio, serve, shim};

const CONNECTIONS: usize = 32;

pub(crate) async fn run(scale: &Scale) -> anyhow::Result<()> {
    println!("\nthroughput of one pod, {CONNECTIONS} connections");
    let shim = shim().await;
    let pod = address(&shim.run("plain", plain()).await);
    let component = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/plain/plain.wasm");
    let other = serve::start(&component).await?;
    let (mut ours, mut theirs) = (Measured::default(), Measured::default());
    let (mut our_log, mut their_log) = (Measured::default(), Measured::default());
    for _ in 0..scale.rounds {
        ours.add(flat_out(pod, "/", CONNECTIONS, scale.seconds).await?);
        if let Some(other) = &other {
            theirs.add(flat_out(other.at, "/", CONNECTIONS, scale.seconds).await?);
        }
        our_log.add(flat_out(pod, "/log", CONNECTIONS, scale.seconds).await?);
        if let Some(other) = &other {
            their_log.add(flat_out(other.at, "/log", CONNECTIONS, scale.seconds).await?);
        }
    }
    show("a pod", &ours);
    match &other {
        Some(other) => {
            show(&format!("{} serve -Scli -Opooling-allocator", other.version), &theirs);
            println!("  the pod is at {} of it", ratio(ours.per_second(), theirs.per_second()));
        }
        None => println!("  wasmtime serve {}", serve::HOW_TO_GET_IT),
    }
    show("the pod, a line of log per request", &our_log);
    println!("  logging leaves {} of it", ratio(our_log.per_second(), ours.per_second()));
    if other.is_some() {
        show("wasmtime serve, a line per request to /dev/null", &their_log);
    }
    drop(other);

    for number in 0..scale.pods[0] {
        shim.run(&format!("idle-{number}"), plain()).await;
    }
    let mut crowded = Measured::default();
    for _ in 0..scale.rounds {
        crowded.add(flat_out(pod, "/", CONNECTIONS, scale.seconds).await?);
    }
    show(&format!("the pod among {} idle ones", scale.pods[0]), &crowded);
    println!("  which is {} of it alone", ratio(crowded.per_second(), ours.per_second()));
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
