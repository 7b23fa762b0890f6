//! A pod under light load beside a hostile one, or while something large is compiled: its 99th percentile before, during
//! and after.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::load::{Measured, lightly};
use super::shim::{Guest, Shim, guest};
use super::{Scale, address, plain, ratio};

const CONNECTIONS: usize = 8;
const PAUSE: Duration = Duration::from_millis(10);

/// Who the neighbour is, by name.
enum Hostile {
    /// A program, started again as soon as it ends; so many of them beside each other.
    Program(&'static str, usize, Guest),
    /// An HTTP guest, asked by so many clients at once, again and again.
    Service(&'static str, usize, Guest),
    /// Clients that say half a request and no more, to a pod of their own.
    SlowClients(usize),
    /// The same, but the half that is missing is the body's: so each holds an instance.
    HalfBodies(usize),
}

pub(crate) async fn hostile(scale: &Scale) -> anyhow::Result<()> {
    println!(
        "\na pod's p99 under light load ({CONNECTIONS} connections, each every {PAUSE:?}), beside a hostile guest"
    );
    let all = [
        Hostile::Program("endless loops, 4", 4, guest("spin")),
        Hostile::Service("endless loops in 8 requests", 8, guest("http-spin")),
        Hostile::Program("memory bomb", 1, guest("bomb").memory(256 << 20)),
        Hostile::Program("table bomb", 1, guest("table-bomb").memory(256 << 20)),
        Hostile::Service("memory bomb in a request", 1, guest("http-bomb").memory(256 << 20)),
        Hostile::Program("recursion", 1, guest("recursion")),
        Hostile::Program("log flood", 1, guest("flood")),
        Hostile::Program("exits at start", 1, guest("exit")),
        Hostile::Program("100,000 sockets", 1, guest("abuse").args(&["tcp", "100000"])),
        Hostile::Program("100,000 host objects", 1, guest("abuse").args(&["objects", "100000"])),
        Hostile::Program("9,000 header objects, as full as may be", 1, guest("abuse").args(&["headers", "9000"])),
        Hostile::Program("requests with long methods", 1, guest("abuse").args(&["requests", "2000"])),
        Hostile::Program("20,000 ports listened on", 1, guest("abuse").args(&["listen", "10000", "20000"])),
        Hostile::Service("a trap in each of 8 requests", 8, guest("http-trap")),
        Hostile::SlowClients(600),
        Hostile::HalfBodies(900),
    ];
    let few = if scale.small { 3 } else { all.len() };
    for one in all.into_iter().take(few) {
        // A shim for each: what one leaves behind is not the next one's.
        let shim = super::shim().await;
        let pod = address(&shim.run("neighbour", plain()).await);
        let worker = shim.worker_pid();
        let _warm = quiet(pod, scale.seconds / 2).await?;
        let before = quiet(pod, scale.seconds).await?;
        let (name, trouble) = start(&shim, one).await?;
        let during = {
            let over = async {
                tokio::select! {
                    biased;
                    () = trouble => {}
                    () = tokio::time::sleep(scale.seconds) => {}
                }
            };
            lightly(pod, CONNECTIONS, PAUSE, over).await?
        };
        show(name, &before, &during);
        if shim.worker_pid() != worker {
            println!("    THE WORKER WAS REPLACED");
        }
    }
    Ok(())
}

pub(crate) async fn compile(scale: &Scale) -> anyhow::Result<()> {
    println!("\na pod's p99 under light load while a module is compiled");
    let shim = super::shim().await;
    let pod = address(&shim.run("neighbour", plain()).await);
    let wasm = large(if scale.small { 100_000 } else { 5 << 20 });
    let size = wasm.len() as f64 / f64::from(1 << 20);
    let file = shim.dir.path().join("large.wasm");
    std::fs::write(&file, wasm)?;
    let store =
        coracle_shim_wasm::images::ImageStore::open(coracle_shim_wasm::front::FrontConfig::image_dir(shim.dir.path()))?;
    store.import(&file, Some("large"))?;
    let sandbox = shim.sandbox("large", &[], &[]).await;
    let _warm = quiet(pod, scale.seconds / 2).await?;
    let before = quiet(pod, scale.seconds).await?;
    let start = tokio::time::Instant::now();
    let mut took = Duration::ZERO;
    let over = async {
        shim.create(&sandbox, "main", guest("large")).await.expect("it compiles");
        took = start.elapsed();
    };
    let during = lightly(pod, CONNECTIONS, PAUSE, over).await?;
    show(&format!("{size:.1} MiB compiled in {:.1} s", took.as_secs_f64()), &before, &during);
    Ok(())
}

async fn quiet(pod: std::net::SocketAddr, time: Duration) -> anyhow::Result<Measured> {
    lightly(pod, CONNECTIONS, PAUSE, tokio::time::sleep(time)).await
}

fn show(what: &str, before: &Measured, during: &Measured) {
    let (alone, beside) = (before.percentile_ms(0.99), during.percentile_ms(0.99));
    println!(
        "  {what}: {beside:.2} ms, alone {alone:.2} ms: {} (goal 2); p50 {:.2} ms, alone {:.2} ms; {} requests failed",
        ratio(beside, alone),
        during.percentile_ms(0.5),
        before.percentile_ms(0.5),
        during.failed
    );
}

/// What goes on until it is dropped.
async fn start(shim: &Shim, hostile: Hostile) -> anyhow::Result<(&'static str, BoxFuture<'_, ()>)> {
    match hostile {
        Hostile::Program(name, count, guest) => {
            let mut programs = Vec::new();
            for number in 0..count {
                let sandbox = shim.sandbox(&format!("hostile-{number}"), &[], &[]).await;
                let first = shim.create(&sandbox, "hostile", guest.clone()).await?;
                programs.push(again(shim, sandbox, first, guest.clone()));
            }
            Ok((name, futures::future::join_all(programs).map(drop).boxed()))
        }
        Hostile::Service(name, count, guest) => {
            let sandbox = shim.sandbox("hostile", &[8080], &[]).await;
            let first = shim.create(&sandbox, "hostile", guest.clone()).await?;
            let ip = shim.ip(&sandbox).await;
            let clients = (0..count).map(move |_| {
                let ip = ip.clone();
                async move {
                    let mut pause = tokio::time::interval(Duration::from_millis(2));
                    loop {
                        pause.tick().await;
                        // Refused while it restarts; cut off when it ends.
                        let _ = super::shim::request(&ip, 8080, "GET /", "").await;
                    }
                }
            });
            let serving = again(shim, sandbox, first, guest);
            let asking = futures::future::join_all(clients);
            Ok((name, futures::future::join(serving, asking).map(drop).boxed()))
        }
        Hostile::HalfBodies(count) => {
            let annotations = [("coracle.dev/http-concurrency".to_owned(), "1000".to_owned())].into();
            let victim = shim.run("victim", Guest { annotations, ..guest("hello:dev") }).await;
            let mut held = Vec::new();
            for _ in 0..count {
                let mut stream = TcpStream::connect(address(&victim)).await?;
                stream.write_all(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n\r\nhalf").await?;
                held.push(stream);
            }
            Ok(("900 requests that hold an instance", futures::future::pending().map(move |()| drop(held)).boxed()))
        }
        Hostile::SlowClients(count) => {
            let victim = shim.run("victim", plain()).await;
            let mut held = Vec::new();
            for _ in 0..count {
                let mut stream = TcpStream::connect(address(&victim)).await?;
                stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nx-slow: ").await?;
                held.push(stream);
            }
            Ok(("600 clients that do not finish asking", futures::future::pending().map(move |()| drop(held)).boxed()))
        }
    }
}

/// Starts the container, waits for its end, makes another, for ever.
async fn again(shim: &Shim, sandbox: String, first: String, guest: Guest) {
    let mut id = first;
    loop {
        if shim.start_container(&id).await.is_ok() {
            let mut pause = tokio::time::interval(Duration::from_millis(5));
            loop {
                pause.tick().await;
                if shim.status(&id).await.finished_at > 0 {
                    break;
                }
            }
        }
        let request = coracle_cri::v1::RemoveContainerRequest { container_id: id };
        shim.runtime().remove_container(request).await.expect("it is removed");
        id = shim.create(&sandbox, "hostile", guest.clone()).await.expect("it is made");
    }
}

/// A module of about that many bytes of ordinary code.
fn large(bytes: usize) -> Vec<u8> {
    // One of these makes 13 bytes.
    let step = "(local.set 0 (i32.mul (i32.add (local.get 0) (local.get 1)) (i32.load (local.get 1))))";
    let body = format!("(local i32 i32) {}", step.repeat(150));
    let mut text = String::from("(module (memory (export \"memory\") 1) (func (export \"_start\"))");
    for _ in 0..bytes / (150 * 13) {
        text.push_str(&format!("(func {body})"));
    }
    text.push(')');
    wat::parse_str(text).expect("it is WebAssembly")
}
