//! `coracle up`: a one-node cluster in the foreground. Says what it does, deploys a folder, then shows pods as they
//! change, and ends everything it started.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use coracle_agent::AgentHandle;
use coracle_api::meta::ObjectKey;
use coracle_client::{Change, Client, Informer, Informers, Pod, RandomIds};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;

use crate::cli::{NodeArgs, UpArgs};
use crate::control_plane::{ControlPlane, until_told_to_end};
use crate::manifest::{Folder, apply};
use crate::progress::Progress;
use crate::{image, node, shim};

/// How long the applied deployments may take before `up` shows pods instead of waiting on.
const ROLLOUT_PATIENCE: Duration = Duration::from_secs(120);

/// How long the node's start may take before `up` says what it waits for.
const NODE_PATIENCE: Duration = Duration::from_secs(5);

pub(crate) async fn run(args: UpArgs) -> anyhow::Result<()> {
    let progress = Progress::shown();
    // Read first: a folder that is not there should not cost a start.
    let folder = args.path.as_deref().map(read).transpose()?;
    let plane = ControlPlane::start(&args.server, &progress).await?;
    let shown = show(&plane, &args, folder, &progress).await;
    progress.step("stopping", "ends pods, then the server");
    let shim = node::shim_config(&args.server.node, &plane.paths, args.server.common.debug);
    // Supervision ends first, so that the runtime is not started again.
    let stopped = plane.stop().await;
    shim::stop(&shim).await?;
    progress.step("stopped", "");
    shown.and(stopped)
}

fn read(path: &Path) -> anyhow::Result<Folder> {
    if !path.exists() {
        bail!("{} does not exist: `up` takes a folder with *.yaml and *.wasm files", path.display());
    }
    Folder::read(path)
}

/// Everything between the start and the end.
async fn show(plane: &ControlPlane, args: &UpArgs, folder: Option<Folder>, progress: &Progress) -> anyhow::Result<()> {
    let ended = until_told_to_end(&plane.scope);
    tokio::pin!(ended);
    let work = deploy_and_watch(plane, args, folder, progress);
    tokio::select! {
        biased;
        ended = &mut ended => ended,
        failed = work => failed,
    }
}

async fn deploy_and_watch(
    plane: &ControlPlane,
    args: &UpArgs,
    folder: Option<Folder>,
    progress: &Progress,
) -> anyhow::Result<()> {
    let client = plane.client("system:admin");
    let informers = Informers::new(client.clone(), &plane.scope, RandomIds::from_os()).sharing(&plane.shared);
    let agent = plane.start_node(&args.server).await?;
    let name = node::node_name(&args.server.node)?;
    // The agent's own word: what the server has of the node and its pods may be from before the last stop.
    until_ready(&agent, progress).await;
    progress.step("node", &format!("{name} is Ready"));
    if let Some(folder) = &folder {
        deploy(plane, &client, &informers, &agent, folder, progress).await?;
    }
    for url in urls(&informers, folder.as_ref(), &args.server.node).await {
        progress.tell("url", &url);
    }
    progress.tell("kubeconfig", &plane.paths.kubeconfig().display().to_string());
    progress.tell("", &format!("export KUBECONFIG={}", plane.paths.kubeconfig().display()));
    progress.tell("", "Ctrl-C stops everything");
    follow_pods(&informers.get::<Pod>(), progress).await
}

/// Says every few seconds what keeps the node from being ready.
async fn until_ready(agent: &AgentHandle, progress: &Progress) {
    while tokio::time::timeout(NODE_PATIENCE, agent.ready()).await.is_err() {
        let why = agent.waits_for().unwrap_or_else(|| "the server has not been told yet".to_owned());
        progress.step("waiting", &format!("the node is not ready: {why}"));
    }
}

async fn deploy(
    plane: &ControlPlane,
    client: &Client,
    informers: &Informers,
    agent: &AgentHandle,
    folder: &Folder,
    progress: &Progress,
) -> anyhow::Result<()> {
    let store = image::store(&plane.paths)?;
    for file in &folder.wasm {
        for imported in image::import(&store, file, None)? {
            let size = image::size(imported.size_bytes);
            progress.step("image", &format!("{} from {} ({size})", imported.name, file.display()));
        }
    }
    for object in &folder.objects {
        progress.step("apply", &apply(client, object).await?);
    }
    let (deployments, pods) = (informers.get::<Deployment>(), informers.get::<Pod>());
    for object in folder.objects.iter().filter(|o| o.kind() == "Deployment") {
        let key = ObjectKey::new(namespace_of(object.namespace()), object.name());
        let available = wait_for_rollout(&deployments, &pods, agent, &key);
        match tokio::time::timeout(ROLLOUT_PATIENCE, available).await {
            Ok(found) => {
                let found = found?;
                progress.step("ready", &format!("deployment/{} {}", key.name, replicas(&found)));
            }
            Err(_) => progress
                .step("waiting", &format!("deployment/{} is not available yet: kubectl describe pods", key.name)),
        }
    }
    Ok(())
}

fn namespace_of(namespace: &str) -> &str {
    if namespace.is_empty() { "default" } else { namespace }
}

fn replicas(deployment: &Deployment) -> String {
    let wanted = deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
    let ready = deployment.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0);
    format!("{ready}/{wanted}")
}

/// As `kubectl rollout status` sees it.
fn is_rolled_out(deployment: &Deployment) -> bool {
    let wanted = deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
    let status = deployment.status.clone().unwrap_or_default();
    status.observed_generation >= deployment.metadata.generation
        && status.updated_replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) == wanted
        && status.replicas.unwrap_or(0) == wanted
}

/// Waits until the deployment is rolled out and the agent has as many of its pods ready.
async fn wait_for_rollout(
    deployments: &Informer<Deployment>,
    pods: &Informer<Pod>,
    agent: &AgentHandle,
    key: &ObjectKey,
) -> anyhow::Result<Arc<Deployment>> {
    let (mut rollouts, mut starts) = (deployments.subscribe(), pods.subscribe());
    loop {
        if let Some(deployment) = deployments.get(key).filter(|d| is_rolled_out(d) && runs_here(d, &agent.pods())) {
            return Ok(deployment);
        }
        tokio::select! {
            biased;
            change = rollouts.next() => drop(change.context("the server stopped")?),
            change = starts.next() => drop(change.context("the server stopped")?),
        }
    }
}

fn runs_here(deployment: &Deployment, pods: &[Arc<Pod>]) -> bool {
    let wanted = deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
    let selector = deployment.spec.as_ref().and_then(|s| s.selector.match_labels.clone()).unwrap_or_default();
    let ready = pods.iter().filter(|pod| {
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
        selector.iter().all(|(key, value)| labels.get(key) == Some(value))
            && conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
    });
    ready.count() >= usize::try_from(wanted).unwrap_or(0)
}

/// Where the folder's services of type NodePort or LoadBalancer answer on this host.
async fn urls(informers: &Informers, folder: Option<&Folder>, args: &NodeArgs) -> Vec<String> {
    let services = informers.get::<Service>();
    services.synced().await;
    let address = args.node_port_addresses.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let mut urls = Vec::new();
    for object in folder.iter().flat_map(|f| &f.objects).filter(|o| o.kind() == "Service") {
        let key = ObjectKey::new(namespace_of(object.namespace()), object.name());
        let ports = services.get(&key).and_then(|s| s.spec.clone()?.ports).unwrap_or_default();
        for port in ports.iter().filter_map(|p| u16::try_from(p.node_port?).ok()) {
            urls.push(format!("http://{}/", SocketAddr::new(address, port)));
        }
    }
    urls
}

/// A line for every pod whose state changed, until the server stops.
async fn follow_pods(pods: &Informer<Pod>, progress: &Progress) -> anyhow::Result<()> {
    let mut changes = pods.subscribe();
    pods.synced().await;
    let mut shown = BTreeMap::new();
    show_all_pods(pods, &mut shown, progress);
    loop {
        match changes.next().await {
            Some(Change::Applied { new, .. }) => show_pod(&new, &mut shown, progress),
            Some(Change::Deleted(pod)) => forget_pod(&coracle_client::key_of(&pod.metadata), &mut shown, progress),
            Some(Change::Resync) => show_all_pods(pods, &mut shown, progress),
            None => bail!("the server stopped"),
        }
    }
}

/// After changes were missed.
fn show_all_pods(pods: &Informer<Pod>, shown: &mut BTreeMap<ObjectKey, String>, progress: &Progress) {
    let current = pods.list();
    let keys: BTreeSet<ObjectKey> = current.iter().map(|pod| coracle_client::key_of(&pod.metadata)).collect();
    for gone in shown.keys().filter(|key| !keys.contains(*key)).cloned().collect::<Vec<_>>() {
        forget_pod(&gone, shown, progress);
    }
    for pod in current {
        show_pod(&pod, shown, progress);
    }
}

fn show_pod(pod: &Pod, shown: &mut BTreeMap<ObjectKey, String>, progress: &Progress) {
    let (key, state) = (coracle_client::key_of(&pod.metadata), state(pod));
    if shown.get(&key) != Some(&state) {
        progress.step("pod", &format!("{key} {state}"));
        shown.insert(key, state);
    }
}

fn forget_pod(key: &ObjectKey, shown: &mut BTreeMap<ObjectKey, String>, progress: &Progress) {
    if shown.remove(key).is_some() {
        progress.step("pod", &format!("{key} is gone"));
    }
}

/// `Running 1/1 at 127.42.0.2`, or why it is not running.
fn state(pod: &Pod) -> String {
    let status = pod.status.clone().unwrap_or_default();
    let containers = status.container_statuses.unwrap_or_default();
    let ready = containers.iter().filter(|c| c.ready).count();
    let waiting = containers.iter().find_map(|c| {
        let waiting = c.state.as_ref()?.waiting.as_ref()?;
        Some(format!("{} {}", waiting.reason.as_deref()?, waiting.message.as_deref().unwrap_or_default()))
    });
    let phase = match (&pod.metadata.deletion_timestamp, waiting) {
        (Some(_), _) => "Terminating".to_owned(),
        (None, Some(waiting)) => waiting.trim().to_owned(),
        (None, None) => status.phase.unwrap_or_else(|| "Pending".to_owned()),
    };
    let address = status.pod_ip.map(|ip| format!(" at {ip}")).unwrap_or_default();
    format!("{phase} {ready}/{}{address}", containers.len())
}
