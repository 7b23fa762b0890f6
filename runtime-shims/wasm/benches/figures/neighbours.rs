//! A pod under light load beside a hostile one, or while something large is compiled: its 99th percentile alone and beside
//! them, in turns.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use coracle_cri::Status;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use super::load::{Measured, flat_out, lightly};
use super::shim::{Guest, Shim, guest};
use super::{Scale, address, plain};

const CONNECTIONS: usize = 8;
const PAUSE: Duration = Duration::from_millis(10);

/// Who the neighbour is, by name.
enum Hostile {
    /// Nobody of ours: two processes that run this in a shell, with the nice value of guests that compute. What the
    /// kernel and the host make of that is the measure for the others.
    Elsewhere(&'static str, &'static str),
    /// A program, started again as soon as it ends; so many of them beside each other.
    Program(&'static str, usize, Guest),
    /// A program with a folder at `/data` that is empty each time it is started.
    InFolder(&'static str, Guest),
    /// So many requests of a program at once, to a server that answers with a byte a second.
    SlowServer(usize),
    /// An HTTP guest, asked by so many clients at once, again and again.
    Service(&'static str, usize, Guest),
    /// A pod asked as fast as it answers, over so many connections.
    Crowd(usize),
    /// Clients that say half a request and no more, to a pod of their own.
    SlowClients(usize),
    /// The same, but the half that is missing is the body's: so each holds an instance.
    HalfBodies(usize),
}

impl Hostile {
    fn name(&self) -> &'static str {
        match self {
            Hostile::Elsewhere(name, _) | Hostile::InFolder(name, _) => name,
            Hostile::Program(name, ..) | Hostile::Service(name, ..) => name,
            Hostile::SlowServer(_) => "300 requests to a server that sends a byte a second",
            Hostile::Crowd(_) => "a pod asked as fast as it answers",
            Hostile::HalfBodies(_) => "900 requests that hold an instance",
            Hostile::SlowClients(_) => "600 clients that do not finish asking",
        }
    }
}

pub(crate) async fn hostile(scale: &Scale) -> anyhow::Result<()> {
    println!(
        "\na pod's p99 under light load ({CONNECTIONS} connections, each every {PAUSE:?}), beside a hostile guest"
    );
    let all = [
        Hostile::Elsewhere("for comparison, other processes in endless loops", "while :; do :; done"),
        Hostile::Elsewhere(
            "for comparison, other processes that copy",
            "exec dd if=/dev/zero of=/dev/null bs=1M status=none",
        ),
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
        Hostile::InFolder("a file opened 100,000 times", guest("opens")),
        Hostile::InFolder("20,000 files", guest("abuse").args(&["files", "/data", "20000"])),
        Hostile::InFolder("directories as deep as can be", guest("abuse").args(&["deep", "/data", "3000"])),
        Hostile::SlowServer(300),
        Hostile::Service("a trap in each of 8 requests", 8, guest("http-trap")),
        Hostile::SlowClients(600),
        Hostile::HalfBodies(900),
        Hostile::Crowd(32),
    ];
    let few = if scale.small { 3 } else { all.len() };
    for one in all.into_iter().filter(|one| one.name().contains(&scale.neighbour)).take(few) {
        // A shim for each: what one leaves behind is not the next one's.
        let shim = super::shim().await;
        let pod = address(&shim.run("neighbour", plain()).await);
        let worker = shim.worker_pid();
        let _warm = quiet(pod, scale.seconds / 2).await?;
        let mut rounds = Rounds::default();
        for _ in 0..scale.rounds {
            let before = quiet(pod, scale.seconds / 2).await?;
            let Trouble { sandboxes, goes_on } = start(&shim, &one).await?;
            let over = async {
                tokio::select! {
                    biased;
                    () = goes_on => {}
                    () = tokio::time::sleep(scale.seconds) => {}
                }
            };
            let during = lightly(pod, CONNECTIONS, PAUSE, over).await?;
            for sandbox in sandboxes {
                shim.remove_pod(&sandbox).await;
            }
            rounds.add(before, during);
        }
        rounds.show(one.name());
        if shim.worker_pid() != worker {
            println!("    THE WORKER WAS REPLACED");
        }
    }
    Ok(())
}

pub(crate) async fn compile(scale: &Scale) -> anyhow::Result<()> {
    println!("\na pod's p99 under light load while a module is compiled");
    let wasm = large(if scale.small { 100_000 } else { 5 << 20 });
    let size = wasm.len() as f64 / f64::from(1 << 20);
    let (rounds, took, made) = beside_compiling(scale, wasm, &[]).await?;
    made?;
    rounds.show(&format!("{size:.1} MiB compiled in {:.1} s", took.as_secs_f64()));
    // It would take minutes.
    let limit = if scale.small { "3" } else { "30" };
    let (rounds, took, made) = beside_compiling(scale, costly(), &["--compile-seconds", limit]).await?;
    let Err(refusal) = made else { anyhow::bail!("the costly module was compiled in {took:?}") };
    anyhow::ensure!(refusal.message().contains("of processor time"), "{refusal}");
    rounds.show(&format!("a costly one given up after {limit} s of processor time, in {:.1} s", took.as_secs_f64()));
    Ok(())
}

/// How a pod fared, how long the compiling took, and what came of it.
async fn beside_compiling(
    scale: &Scale,
    wasm: Vec<u8>,
    options: &[&str],
) -> anyhow::Result<(Rounds, Duration, Result<String, Status>)> {
    let shim = super::shim_with(options).await;
    let pod = address(&shim.run("neighbour", plain()).await);
    let file = shim.dir.path().join("large.wasm");
    std::fs::write(&file, wasm)?;
    let store =
        coracle_shim_wasm::images::ImageStore::open(coracle_shim_wasm::front::FrontConfig::image_dir(shim.dir.path()))?;
    store.import(&file, Some("large"))?;
    let sandbox = shim.sandbox("large", &[], &[]).await;
    let _warm = quiet(pod, scale.seconds / 2).await?;
    let before = quiet(pod, scale.seconds).await?;
    let start = tokio::time::Instant::now();
    let mut outcome = None;
    let over = async {
        let made = shim.create(&sandbox, "main", guest("large")).await;
        outcome = Some((start.elapsed(), made));
    };
    let during = lightly(pod, CONNECTIONS, PAUSE, over).await?;
    let mut rounds = Rounds::default();
    rounds.add(before, during);
    let (took, made) = outcome.expect("it was waited for");
    Ok((rounds, took, made))
}

async fn quiet(pod: std::net::SocketAddr, time: Duration) -> anyhow::Result<Measured> {
    lightly(pod, CONNECTIONS, PAUSE, tokio::time::sleep(time)).await
}

/// What was measured alone and right afterwards beside somebody, in turns: what other machines do on this host's
/// processors is in both.
#[derive(Default)]
struct Rounds {
    alone: Measured,
    beside: Measured,
    ratios: Vec<f64>,
}

impl Rounds {
    fn add(&mut self, alone: Measured, beside: Measured) {
        self.ratios.push(beside.percentile_ms(0.99) / alone.percentile_ms(0.99));
        self.ratios.sort_by(f64::total_cmp);
        self.alone.add(alone);
        self.beside.add(beside);
    }

    fn show(&self, what: &str) {
        let all: Vec<String> = self.ratios.iter().map(|ratio| format!("{ratio:.2}")).collect();
        println!(
            "  {what}: {:.2} ms, alone {:.2} ms: {:.2} × (goal 2; rounds {}); p50 {:.2} ms, alone {:.2} ms; slowest {:.1} ms, alone {:.1} ms; {} requests failed",
            self.beside.percentile_ms(0.99),
            self.alone.percentile_ms(0.99),
            self.ratios[self.ratios.len() / 2],
            all.join(", "),
            self.beside.percentile_ms(0.5),
            self.alone.percentile_ms(0.5),
            self.beside.percentile_ms(1.0),
            self.alone.percentile_ms(1.0),
            self.beside.failed
        );
    }
}

/// A hostile neighbour at work.
struct Trouble<'a> {
    sandboxes: Vec<String>,
    /// Until it is dropped.
    goes_on: BoxFuture<'a, ()>,
}

async fn start<'a>(shim: &'a Shim, hostile: &Hostile) -> anyhow::Result<Trouble<'a>> {
    match hostile {
        Hostile::Elsewhere(_, script) => {
            let mut command = Command::new("nice");
            command.args(["-n", "15", "sh", "-c", script]).kill_on_drop(true);
            let processes = [command.spawn()?, command.spawn()?];
            let goes_on = futures::future::pending().map(move |()| drop(processes)).boxed();
            Ok(Trouble { sandboxes: Vec::new(), goes_on })
        }
        Hostile::Program(_, count, guest) => {
            let (mut sandboxes, mut programs) = (Vec::new(), Vec::new());
            for number in 0..*count {
                let sandbox = shim.sandbox(&format!("hostile-{number}"), &[], &[]).await;
                let first = shim.create(&sandbox, "hostile", guest.clone()).await?;
                let guest = guest.clone();
                programs.push(again(shim, sandbox.clone(), first, move || guest.clone()));
                sandboxes.push(sandbox);
            }
            Ok(Trouble { sandboxes, goes_on: futures::future::join_all(programs).map(drop).boxed() })
        }
        Hostile::InFolder(_, guest) => in_folder(shim, guest.clone()).await,
        Hostile::SlowServer(count) => slow_server(shim, *count).await,
        Hostile::Service(_, count, guest) => {
            let sandbox = shim.sandbox("hostile", &[8080], &[]).await;
            let first = shim.create(&sandbox, "hostile", guest.clone()).await?;
            let ip = shim.ip(&sandbox).await;
            let clients = (0..*count).map(move |_| {
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
            let guest = guest.clone();
            let serving = again(shim, sandbox.clone(), first, move || guest.clone());
            let asking = futures::future::join_all(clients);
            let goes_on = futures::future::join(serving, asking).map(drop).boxed();
            Ok(Trouble { sandboxes: vec![sandbox], goes_on })
        }
        Hostile::Crowd(count) => {
            let crowded = shim.run("crowded", plain()).await;
            let (at, count) = (address(&crowded), *count);
            let asking = async move {
                loop {
                    flat_out(at, "/", count, Duration::from_secs(1)).await.expect("all are answered");
                }
            };
            Ok(Trouble { sandboxes: vec![crowded.sandbox], goes_on: asking.boxed() })
        }
        Hostile::HalfBodies(count) => {
            let annotations = [("coracle.dev/http-concurrency".to_owned(), "1000".to_owned())].into();
            let victim = Guest { annotations, ..guest("hello:dev") };
            held(shim, victim, *count, b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n\r\nhalf").await
        }
        Hostile::SlowClients(count) => held(shim, plain(), *count, b"GET / HTTP/1.1\r\nhost: x\r\nx-slow: ").await,
    }
}

/// Clients that say something and then nothing more.
async fn held<'a>(shim: &Shim, victim: Guest, count: usize, said: &[u8]) -> anyhow::Result<Trouble<'a>> {
    let victim = shim.run("victim", victim).await;
    let mut held = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(address(&victim)).await?;
        stream.write_all(said).await?;
        held.push(stream);
    }
    let goes_on = futures::future::pending().map(move |()| drop(held)).boxed();
    Ok(Trouble { sandboxes: vec![victim.sandbox], goes_on })
}

/// What was made stays until the shim's own folder goes, so that no round pays for removing it.
async fn in_folder<'a>(shim: &'a Shim, guest: Guest) -> anyhow::Result<Trouble<'a>> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = move || {
        let folder = shim.dir.path().join(format!("data-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir(&folder).expect("a directory can be made");
        // Workers may be another user.
        std::fs::set_permissions(&folder, Permissions::from_mode(0o777)).expect("it is ours");
        guest.clone().mount(&folder, "/data", false)
    };
    let sandbox = shim.sandbox("hostile", &[], &[]).await;
    let first = shim.create(&sandbox, "hostile", next()).await?;
    let goes_on = again(shim, sandbox.clone(), first, next).boxed();
    Ok(Trouble { sandboxes: vec![sandbox], goes_on })
}

async fn slow_server<'a>(shim: &'a Shim, count: usize) -> anyhow::Result<Trouble<'a>> {
    let server = TcpListener::bind("127.0.0.2:0").await?;
    let at = server.local_addr()?.to_string();
    let serving = async move {
        let mut answers = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                Ok((stream, _)) = server.accept() => answers.push(drip(stream)),
                Some(_) = answers.next(), if !answers.is_empty() => {}
            }
        }
    };
    let client = guest("abuse").args(&["upstream", &at, &count.to_string()]);
    let sandbox = shim.sandbox("hostile", &[], &[]).await;
    let first = shim.create(&sandbox, "hostile", client.clone()).await?;
    let asking = again(shim, sandbox.clone(), first, move || client.clone());
    let goes_on = futures::future::join(serving, asking).map(drop).boxed();
    Ok(Trouble { sandboxes: vec![sandbox], goes_on })
}

/// An answer whose head does not end, until whoever asked is gone.
async fn drip(mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\nx-slow: ").await?;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        stream.write_all(b"x").await?;
    }
}

/// Starts the container, waits for its end, makes another, for ever.
async fn again(shim: &Shim, sandbox: String, first: String, mut next: impl FnMut() -> Guest) {
    let mut id = first;
    loop {
        if shim.start_container(&id).await.is_ok() {
            // At once if it ends at once; asking again and again would be a load of its own.
            let mut pause = Duration::from_millis(5);
            while shim.status(&id).await.finished_at == 0 {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(200));
            }
        }
        let request = coracle_cri::v1::RemoveContainerRequest { container_id: id };
        shim.runtime().remove_container(request).await.expect("it is removed");
        id = shim.create(&sandbox, "hostile", next()).await.expect("it is made");
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

/// A module of functions that cost minutes: in each, many loops change many variables.
fn costly() -> Vec<u8> {
    const LOCALS: usize = 2_000;
    let mut body = format!("(local{})", " i32".repeat(LOCALS));
    for at in 0..300 {
        body.push_str(" (loop (br_if 0 (local.get 0))");
        for step in 0..8 {
            let (one, other) = ((at * 37 + step * 101) % LOCALS, (at * 53 + step * 17) % LOCALS);
            body.push_str(&format!(" (local.set {one} (i32.add (local.get {other}) (local.get {one})))"));
        }
        body.push(')');
    }
    let functions = format!("(func {body})").repeat(300);
    let text = format!("(module (memory (export \"memory\") 1) (func (export \"_start\")) {functions})");
    wat::parse_str(text).expect("it is WebAssembly")
}
