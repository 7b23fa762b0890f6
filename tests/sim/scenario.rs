//! What happens in one run: some deployments, then random trouble, then quiet, in which everything must converge.

use std::collections::BTreeMap;
use std::time::Duration;

use coracle_client::{Client, DeleteParams, ListParams, Pod};
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::json;

use crate::faults::Rates;
use crate::invariants::{Checker, missing};
use crate::world::World;

/// Steps of trouble in a run.
const STEPS: u32 = 25;
/// Simulated time in which everything must be in order once the trouble ends: restarts back off for up to five
/// minutes, and pods of a node that was away are evicted after five more.
const CONVERGES_WITHIN: Duration = Duration::from_secs(20 * 60);

pub(crate) struct Outcome {
    pub(crate) failure: Option<String>,
    pub(crate) trace: Vec<String>,
    pub(crate) faults: BTreeMap<&'static str, u32>,
}

/// One run on a runtime of its own.
pub(crate) fn run(seed: u64) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime can be built");
    runtime.block_on(async {
        let mut world = World::start(seed).await;
        let failure = play(&mut world).await.err();
        let outcome = Outcome { failure, trace: world.faults.trace(), faults: world.faults.seen() };
        world.stop().await;
        outcome
    })
}

async fn play(world: &mut World) -> Result<(), String> {
    let mut checker = Checker::default();
    let mut story = Vec::new();
    for n in 0..3 {
        apply(&world.admin, &format!("web-{n}"), 2).await?;
    }
    world.faults.set(Rates::ROUGH);
    for _ in 0..STEPS {
        story.push(step(world).await?);
        let pause = Duration::from_millis(u64::from(world.faults.random(20_000)));
        tokio::time::sleep(pause).await;
        let checked = checker.check(&world.admin, &world.runtimes()).await;
        checked.map_err(|broken| format!("{broken}\nafter: {}", story.join(", ")))?;
    }
    world.faults.set(Rates::NONE);
    world.heal().await;
    let quiet = tokio::time::Instant::now();
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        checker.check(&world.admin, &world.runtimes()).await?;
        match missing(&world.admin, &world.runtimes()).await {
            None => return Ok(()),
            Some(what) if quiet.elapsed() > CONVERGES_WITHIN => {
                return Err(format!("does not converge: {what}\nafter: {}", story.join(", ")));
            }
            Some(_) => {}
        }
    }
}

/// One piece of trouble, or of a user's ordinary work; gives its name.
async fn step(world: &mut World) -> Result<String, String> {
    let node = world.faults.random(3) as usize;
    let deployment = format!("web-{}", world.faults.random(3));
    Ok(match world.faults.random(11) {
        0..=2 => {
            let replicas = world.faults.random(6);
            apply(&world.admin, &deployment, replicas).await?;
            format!("scale {deployment} to {replicas}")
        }
        3 => {
            let version = world.faults.random(3);
            roll(&world.admin, &deployment, version).await?;
            format!("roll {deployment} to v{version}")
        }
        4 => delete_a_pod(world).await?,
        5 => {
            world.restart_agent(node).await;
            format!("agent {node} restarted")
        }
        6 => {
            world.power_cut(node).await;
            format!("power cut of node {node}")
        }
        7 => {
            world.partition(node, true);
            format!("node {node} cut off")
        }
        8 => {
            world.partition(node, false);
            format!("node {node} reachable")
        }
        9 => {
            world.restart_server().await;
            "server killed and restarted".to_owned()
        }
        _ => {
            world.runtime(node).cut_streams();
            format!("runtime events of node {node} cut")
        }
    })
}

fn manifest(name: &str, replicas: u32) -> serde_json::Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"terminationGracePeriodSeconds": 2, "containers": [{
                    "name": "c", "image": "app:v0", "imagePullPolicy": "IfNotPresent",
                    "resources": {"requests": {"cpu": "100m", "memory": "32Mi"}},
                }]},
            },
        },
    })
}

/// Creates the deployment, or scales it.
async fn apply(admin: &Client, name: &str, replicas: u32) -> Result<(), String> {
    let api = admin.namespaced::<Deployment>("default");
    let object = serde_json::from_value(manifest(name, replicas)).expect("the manifest is right");
    match api.create(&object).await {
        Err(error) if error.is_already_exists() => {
            api.merge_patch(name, &json!({"spec": {"replicas": replicas}})).await.map(drop)
        }
        other => other.map(drop),
    }
    .map_err(|error| format!("apply {name}: {error}"))
}

async fn roll(admin: &Client, name: &str, version: u32) -> Result<(), String> {
    let patch =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": format!("app:v{version}")}]}}}});
    let api = admin.namespaced::<Deployment>("default");
    api.strategic_patch(name, &patch).await.map(drop).map_err(|error| format!("roll {name}: {error}"))
}

async fn delete_a_pod(world: &World) -> Result<String, String> {
    let api = world.admin.namespaced::<Pod>("default");
    let pods = api.list(&ListParams::default()).await.map_err(|e| e.to_string())?.items;
    if pods.is_empty() {
        return Ok("no pod to delete".to_owned());
    }
    let at = world.faults.random(u32::try_from(pods.len()).unwrap_or(1)) as usize;
    let name = pods[at].metadata.name.clone().unwrap_or_default();
    match api.delete(&name, &DeleteParams::default()).await {
        Err(error) if !error.is_not_found() => Err(format!("delete {name}: {error}")),
        _ => Ok(format!("pod {name} deleted")),
    }
}
