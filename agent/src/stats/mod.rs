//! What this node and its pods use, as kubelet's node API tells it: `/metrics/resource` and `/stats/summary`.
//!
//! Owns asking the runtimes and the host, which happens when somebody asks and never else. `render` makes the answers,
//! `host` reads /proc.

mod host;
mod render;

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use coracle_client::Clock;

use crate::runtime::Runtimes;
use crate::server::PodSource;
pub use host::HostUsage;
use render::{ContainerUsage, Usage};

/// The labels under which runtimes keep whose container it is, as kubelet sets them.
const POD_NAME: &str = "io.kubernetes.pod.name";
const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
const CONTAINER_NAME: &str = "io.kubernetes.container.name";

/// Answers what is used here.
#[derive(Clone)]
pub struct Stats {
    pub node: Arc<str>,
    pub pods: Arc<dyn PodSource>,
    pub runtimes: Runtimes,
    pub clock: Arc<dyn Clock>,
}

impl Stats {
    pub fn router(self) -> axum::Router {
        axum::Router::new()
            .route("/metrics/resource", get(resource_metrics))
            .route("/stats/summary", get(summary))
            .with_state(self)
    }

    async fn usage(&self) -> Usage {
        let mut containers = Vec::new();
        let mut failed = false;
        for runtime in self.runtimes.all() {
            match runtime.container_stats().await {
                Ok(stats) => containers.extend(stats.iter().filter_map(container)),
                Err(error) => {
                    failed = true;
                    tracing::warn!(runtime = runtime.endpoint().name(), %error, "a runtime does not say what is used");
                }
            }
        }
        let host = HostUsage::read().inspect_err(|error| tracing::warn!(%error, "the host's usage cannot be read"));
        failed |= host.is_err();
        Usage {
            node: self.node.clone(),
            now: self.clock.now(),
            host: host.ok(),
            pods: self.pods.pods(),
            containers,
            failed,
        }
    }
}

async fn resource_metrics(State(stats): State<Stats>) -> Response {
    let text = render::resource_metrics(&stats.usage().await);
    ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn summary(State(stats): State<Stats>) -> Response {
    let text = render::summary(&stats.usage().await).to_string();
    ([("content-type", "application/json")], text).into_response()
}

/// None for what is no pod's.
fn container(stats: &coracle_cri::v1::ContainerStats) -> Option<ContainerUsage> {
    let labels = &stats.attributes.as_ref()?.labels;
    let value = |number: &Option<coracle_cri::v1::UInt64Value>| number.as_ref().map(|number| number.value);
    let cpu = stats.cpu.as_ref();
    let memory = stats.memory.as_ref();
    Some(ContainerUsage {
        namespace: labels.get(POD_NAMESPACE)?.clone(),
        pod: labels.get(POD_NAME)?.clone(),
        name: labels.get(CONTAINER_NAME)?.clone(),
        at_ns: cpu.map_or(0, |cpu| cpu.timestamp),
        cpu_ns: cpu.and_then(|cpu| value(&cpu.usage_core_nano_seconds)),
        nano_cores: cpu.and_then(|cpu| value(&cpu.usage_nano_cores)),
        working_set_bytes: memory.and_then(|memory| value(&memory.working_set_bytes)),
        usage_bytes: memory.and_then(|memory| value(&memory.usage_bytes)),
        rss_bytes: memory.and_then(|memory| value(&memory.rss_bytes)),
        disk_bytes: stats.writable_layer.as_ref().and_then(|disk| value(&disk.used_bytes)),
    })
}
