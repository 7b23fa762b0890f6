//! Figures of the release binary on this machine, beside what was asked for and what k3s took on one like it.
//! `cargo bench -p coracle-tests` prints them all; `… -- pods api` only those sections.

mod crowd;
mod load;
mod process;

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use coracle_tests::Cluster;
use http_body_util::BodyExt as _;

use load::{Measured, Target, load, now};

const SECTIONS: &[&str] = &["start", "idle", "pods", "api", "list", "watch", "crowd"];

fn main() -> anyhow::Result<()> {
    let asked: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let wanted = |section: &str| asked.is_empty() || asked.iter().any(|a| a == section);
    if let Some(name) = asked.iter().find(|a| !SECTIONS.contains(&a.as_str())) {
        anyhow::bail!("no section {name:?}: there are {}", SECTIONS.join(", "));
    }
    println!("{:<44} {:>14} {:>14} {:>14}", "", "measured", "goal", "k3s 1.21");
    if wanted("start") {
        start()?;
    }
    let cluster = Cluster::up(&["examples/hello"]);
    if wanted("idle") {
        rest();
        memory(&cluster, "idle, hello's 2 pods", Some((60.0, 505.0)));
        idle_cpu(&cluster);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let target = Target::from_kubeconfig(&cluster.kubeconfig())?;
        if wanted("pods") {
            pods(&cluster, &target).await?;
        }
        if wanted("api") {
            api(&target).await?;
        }
        if wanted("list") {
            list(&target).await?;
        }
        if wanted("watch") {
            watch(&target).await?;
        }
        anyhow::Ok(())
    })?;
    drop(cluster);
    if wanted("crowd") {
        runtime.block_on(crowd::crowd())?;
    }
    Ok(())
}

fn row(name: &str, measured: f64, unit: &str, goal: &str, k3s: &str) {
    println!("{name:<44} {:>14} {goal:>14} {k3s:>14}", format!("{measured:.2} {unit}"));
}

/// Exec of the binary on an empty directory until its node is Ready, and again on what that left.
fn start() -> anyhow::Result<()> {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let dir = tempfile::tempdir()?;
        for times in [&mut first, &mut second] {
            let mut command = Command::new(coracle_tests::binary());
            let port = coracle_tests::free_port().to_string();
            command.args(["up", "--bind-address", "127.0.0.1", "--https-listen-port", &port, "--data-dir"]);
            command.arg(dir.path());
            let started = now();
            let mut process = coracle_tests::Process::start(&mut command);
            process.wait_for_line("is Ready");
            times.push(started.elapsed());
            process.signal("INT");
            process.wait();
        }
    }
    for (name, times) in [("exec to node Ready, first start", first), ("exec to node Ready, second start", second)] {
        let measured = Measured { latencies: times, elapsed: Duration::ZERO };
        row(name, measured.percentile_ms(0.5) / 1e3, "s", "<= 0.5 s", "16.8 s");
    }
    Ok(())
}

/// Resident memory in MB, and the same with shared pages counted once.
fn memory(cluster: &Cluster, state: &str, reference: Option<(f64, f64)>) -> [f64; 2] {
    let usage = process::usage(&cluster.all_processes());
    let (mut rss, mut pss) = (0.0, 0.0);
    for one in &usage {
        let (r, p) = (one.rss_kb as f64 / 1024.0, one.pss_kb as f64 / 1024.0);
        println!("  {:<42} {:>14} {:>14}", one.name, format!("{r:.1} MB rss"), format!("{p:.1} MB pss"));
        rss += r;
        pss += p;
    }
    let (goal, k3s) =
        reference.map_or((String::new(), String::new()), |(g, k)| (format!("<= {g:.0} MB"), format!("{k:.0} MB")));
    row(&format!("resident, all processes, {state}"), rss, "MB", &goal, &k3s);
    row("  shared pages counted once", pss, "MB", "", "");
    [rss, pss]
}

/// What a start or a burst leaves behind is gone after this: memory within seconds, code that is not used after half a minute.
#[allow(clippy::disallowed_methods, reason = "idleness is what is measured")]
fn rest() {
    std::thread::sleep(Duration::from_secs(40));
}

/// Share of a core over half a minute in which nothing is asked.
#[allow(clippy::disallowed_methods, reason = "idleness is what is measured")]
fn idle_cpu(cluster: &Cluster) {
    let ticks = || process::usage(&cluster.all_processes()).iter().map(|u| u.cpu_ticks).sum::<u64>();
    let (before, window) = (ticks(), Duration::from_secs(30));
    std::thread::sleep(window);
    // A tick is 10 ms on every Linux that this runs on.
    let busy = (ticks() - before) as f64 * 0.010;
    row("idle, share of a core", busy / window.as_secs_f64() * 100.0, "%", "<= 0.2 %", "3.6 %");
}

fn pod(name: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}"}},"spec":{{"runtimeClassName":"wasm",
        "terminationGracePeriodSeconds":0,"containers":[{{"name":"c","image":"hello:dev","imagePullPolicy":"IfNotPresent"}}]}}}}"#
    )
}

/// How long it takes to make one file where nodes keep theirs, in milliseconds: a pod has two dozen, and together they take
/// longer than all else where ext4 passes over the inodes of files that were removed lately.
fn a_file_made() -> anyhow::Result<f64> {
    const FILES: usize = 200;
    let dir = tempfile::tempdir()?;
    let began = now();
    for number in 0..FILES {
        std::fs::write(dir.path().join(number.to_string()), "x")?;
    }
    Ok(began.elapsed().as_secs_f64() * 1e3 / FILES as f64)
}

/// Pods one after the other as a watcher sees them become Ready, then a hundred at once.
async fn pods(cluster: &Cluster, target: &Target) -> anyhow::Result<()> {
    let path = "/api/v1/namespaces/default/pods";
    let mut events = Events::open(target, &format!("{path}?watch=1")).await?;
    let mut connection = target.connect().await?;
    let mut latencies = Vec::new();
    for i in 0..50 {
        let name = format!("one-{i}");
        let sent = now();
        connection.call("POST", path, &pod(&name)).await?;
        events.until_ready(&name).await?;
        latencies.push(sent.elapsed());
        connection.call("DELETE", &format!("{path}/{name}?gracePeriodSeconds=0"), "").await?;
    }
    let one = Measured { latencies, elapsed: Duration::ZERO };
    row("Wasm pod, create to Ready, p50", one.percentile_ms(0.5), "ms", "<= 8 ms", "997 ms (OCI)");
    row("Wasm pod, create to Ready, p99", one.percentile_ms(0.99), "ms", "<= 30 ms", "");
    row("  for comparison, a file made on its disk", a_file_made()?, "ms", "", "");
    let before = memory(cluster, "before 100 pods", None);
    let sent = now();
    for i in 0..100 {
        connection.call("POST", path, &pod(&format!("many-{i}"))).await?;
    }
    for i in 0..100 {
        events.until_ready(&format!("many-{i}")).await?;
    }
    row("100 Wasm pods at once", 100.0 / sent.elapsed().as_secs_f64(), "pods/s", "", "");
    let after = memory(cluster, "with 100 more Wasm pods", None);
    row("memory a Wasm pod", (after[0] - before[0]) * 1024.0 / 100.0, "KB", "", "");
    for i in 0..100 {
        connection.call("DELETE", &format!("{path}/many-{i}?gracePeriodSeconds=0"), "").await?;
    }
    Ok(())
}

/// A watch, line by line.
struct Events {
    body: hyper::body::Incoming,
    buffer: Vec<u8>,
    /// The addresses of pods that are Ready, by their names.
    ready: BTreeMap<String, String>,
    _connection: load::Connection,
}

impl Events {
    async fn open(target: &Target, path: &str) -> anyhow::Result<Events> {
        let mut connection = target.connect().await?;
        let body = connection.open("GET", path, "").await?.into_body();
        Ok(Events { body, buffer: Vec::new(), ready: Default::default(), _connection: connection })
    }

    async fn line(&mut self) -> anyhow::Result<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line = self.buffer.drain(..=end).collect::<Vec<u8>>();
                return Ok(String::from_utf8(line)?);
            }
            let frame = self.body.frame().await.context("the watch ended")??;
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }

    async fn until_ready(&mut self, name: &str) -> anyhow::Result<()> {
        while !self.ready.contains_key(name) {
            self.next().await?;
        }
        Ok(())
    }

    /// Takes note of one event.
    async fn next(&mut self) -> anyhow::Result<()> {
        let event: serde_json::Value = serde_json::from_str(&self.line().await?)?;
        let (metadata, status) = (&event["object"]["metadata"], &event["object"]["status"]);
        let is_ready = |condition: &serde_json::Value| condition["type"] == "Ready" && condition["status"] == "True";
        if status["conditions"].as_array().is_some_and(|all| all.iter().any(is_ready)) {
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            self.ready.insert(text(&metadata["name"]), text(&status["podIP"]));
        }
        Ok(())
    }
}

async fn api(target: &Target) -> anyhow::Result<()> {
    let path = "/api/v1/namespaces/default/configmaps";
    let text = "x".repeat(900);
    let body = move |i: usize| {
        format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"bench-{i}"}},"data":{{"k":"{text}"}}}}"#)
    };
    let creates = load(target, 10_000, 32, move |i| ("POST", path.to_owned(), body(i))).await?;
    row("ConfigMap creates, 32 connections", creates.per_second(), "/s", ">= 5000 /s", "953 /s");
    row("  p99", creates.percentile_ms(0.99), "ms", "", "");
    let gets =
        load(target, 40_000, 32, move |i| ("GET", format!("{path}/bench-{}", i % 10_000), String::new())).await?;
    row("ConfigMap gets, 32 connections", gets.per_second(), "/s", ">= 15000 /s", "1184 /s");
    let patch = |i: usize| format!(r#"{{"data":{{"v":"{i}"}}}}"#);
    let patches = load(target, 10_000, 32, move |i| ("PATCH", format!("{path}/bench-{i}"), patch(i))).await?;
    row("ConfigMap merge patches, 32 connections", patches.per_second(), "/s", "", "");
    target.connect().await?.call("DELETE", path, "").await?;
    Ok(())
}

async fn list(target: &Target) -> anyhow::Result<()> {
    let mut connection = target.connect().await?;
    connection
        .call("POST", "/api/v1/namespaces", r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"bench"}}"#)
        .await?;
    let path = "/api/v1/namespaces/bench/pods";
    let body = |i: usize| {
        format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"p-{i}","labels":{{"app":"a{}"}}}},"spec":{{"schedulerName":"nobody","containers":[{{"name":"c","image":"hello:dev","env":[{{"name":"A","value":"b"}}],"resources":{{"requests":{{"cpu":"10m","memory":"16Mi"}}}}}}]}}}}"#,
            i % 100
        )
    };
    let creates = load(target, 3_000, 32, move |i| ("POST", path.to_owned(), body(i))).await?;
    row("Pod creates, 32 connections", creates.per_second(), "/s", "", "");
    let lists = load(target, 30, 1, move |_| ("GET", path.to_owned(), String::new())).await?;
    row("list of 3,000 pods, p50", lists.percentile_ms(0.5), "ms", "<= 20 ms", "97 ms");
    connection.call("DELETE", &format!("{path}?gracePeriodSeconds=0"), "").await?;
    connection.call("DELETE", "/api/v1/namespaces/bench", "").await?;
    Ok(())
}

/// Fifty watchers; each event's time from the write's answer until a watcher has it.
async fn watch(target: &Target) -> anyhow::Result<()> {
    let path = "/api/v1/namespaces/default/secrets";
    let (sender, mut receiver) = tokio::sync::mpsc::channel(4096);
    let mut watchers = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let mut events = Events::open(target, &format!("{path}?watch=1")).await?;
        let sender = sender.clone();
        watchers.spawn(async move {
            while let Ok(line) = events.line().await {
                let seen = now();
                let name = line.split("\"name\":\"w-").nth(1).and_then(|r| r.split('"').next()?.parse::<usize>().ok());
                if let Some(i) = name
                    && sender.send((i, seen)).await.is_err()
                {
                    return;
                }
            }
        });
    }
    let mut connection = target.connect().await?;
    let mut answered = Vec::new();
    let mut latencies = Vec::new();
    for i in 0..300 {
        let body =
            format!(r#"{{"apiVersion":"v1","kind":"Secret","metadata":{{"name":"w-{i}"}},"stringData":{{"a":"b"}}}}"#);
        connection.call("POST", path, &body).await?;
        answered.push(now());
        for _ in 0..50 {
            let (i, seen): (usize, std::time::Instant) = receiver.recv().await.context("the watchers ended")?;
            latencies.push(seen.saturating_duration_since(answered[i]));
        }
    }
    let measured = Measured { latencies, elapsed: Duration::ZERO };
    row("watch event after the answer, 50 watchers, p99", measured.percentile_ms(0.99), "ms", "<= 5 ms", "12 ms");
    connection.call("DELETE", path, "").await?;
    watchers.abort_all();
    Ok(())
}
