//! Thousands of Wasm pods on one node: how fast they come, what they take while nobody asks for them, and how soon one of
//! them answers. On a cluster of its own, through the API, the scheduler, the agent and the runtime.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use coracle_tests::Cluster;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::load::{Measured, Target, now};
use crate::{Events, memory, rest, row};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const ARGS: &[&str] = &["examples/hello", "--max-pods", "6000", "--node-cidr-mask-size", "18"];
const PORT: u16 = 8080;
const FIRST: usize = 1000;
const ALL: usize = 5000;
/// Pods asked for the first time.
const ASKED: usize = 50;

pub(crate) async fn crowd() -> anyhow::Result<()> {
    let cluster = Cluster::up(ARGS);
    let target = Target::from_kubeconfig(&cluster.kubeconfig())?;
    let pods = "/api/v1/namespaces/default/pods";
    let mut events = Events::open(&target, &format!("{pods}?watch=1")).await?;
    while events.ready.len() < 2 {
        events.next().await?;
    }
    // The worker process is there from the first container on, and what serves a request from the first request.
    let hello: Vec<String> = events.ready.values().cloned().collect();
    for ip in &hello {
        ask(ip).await?;
    }
    rest();
    let before = memory(&cluster, "before 1,000 pods", None);

    let mut connection = target.connect().await?;
    let sent = now();
    connection.call("POST", DEPLOYMENTS, &deployment(FIRST)).await?;
    while events.ready.len() < FIRST + hello.len() {
        events.next().await?;
    }
    row("1,000 Wasm pods at once", FIRST as f64 / sent.elapsed().as_secs_f64(), "pods/s", ">= 300 /s", "");
    rest();
    let after = memory(&cluster, "with 1,000 more", None);
    for (name, index, goal) in [("memory an idle Wasm pod", 0, "<= 60 KB"), ("  shared pages counted once", 1, "")] {
        row(name, (after[index] - before[index]) * 1024.0 / FIRST as f64, "KB", goal, "");
    }

    let idle = events.ready.values().filter(|ip| !hello.contains(ip)).take(ASKED);
    let mut latencies = Vec::new();
    for ip in idle {
        let sent = now();
        ask(ip).await?;
        latencies.push(sent.elapsed());
    }
    let first = Measured { latencies, elapsed: Duration::ZERO };
    row("first request to an idle pod, p50", first.percentile_ms(0.5), "ms", "<= 3 ms", "");
    row("  the slowest of 50", first.percentile_ms(1.0), "ms", "", "");

    let sent = now();
    let more = format!(r#"{{"spec":{{"replicas":{ALL}}}}}"#);
    connection.call("PATCH", &format!("{DEPLOYMENTS}/crowd"), &more).await?;
    while events.ready.len() < ALL + hello.len() {
        events.next().await?;
    }
    row("4,000 more Wasm pods", (ALL - FIRST) as f64 / sent.elapsed().as_secs_f64(), "pods/s", "", "");
    rest();
    let all = memory(&cluster, "with 5,000", None);
    row("memory an idle Wasm pod of 5,000", (all[0] - before[0]) * 1024.0 / ALL as f64, "KB", "", "");
    for ip in events.ready.values().rev().take(ASKED) {
        ask(ip).await?;
    }
    Ok(())
}

/// Of pods that nobody asks, not even a probe: each of its requests would make an instance.
fn deployment(replicas: usize) -> String {
    format!(
        r#"{{"apiVersion":"apps/v1","kind":"Deployment","metadata":{{"name":"crowd"}},"spec":{{"replicas":{replicas},
        "selector":{{"matchLabels":{{"app":"crowd"}}}},"template":{{"metadata":{{"labels":{{"app":"crowd"}}}},
        "spec":{{"runtimeClassName":"wasm","terminationGracePeriodSeconds":0,"containers":[{{"name":"c",
        "image":"hello:dev","imagePullPolicy":"IfNotPresent","ports":[{{"containerPort":{PORT}}}]}}]}}}}}}}}"#
    )
}

/// One request on a connection of its own, answered with 200.
async fn ask(ip: &str) -> anyhow::Result<()> {
    let stream = TcpStream::connect((ip, PORT)).await.with_context(|| ip.to_owned())?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = hyper::Request::builder().uri("/").header("host", "pod").body(Empty::<Bytes>::new())?;
    let answer = async move {
        let response = sender.send_request(request).await?;
        anyhow::ensure!(response.status().is_success(), "{ip}: {}", response.status());
        Ok(response.into_body().collect().await?.to_bytes())
    };
    let (answer, _) = tokio::join!(answer, connection);
    answer.map(drop)
}
