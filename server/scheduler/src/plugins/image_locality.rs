//! Likes nodes that have the pod's images already, the larger the better. An image that few nodes have counts for less,
//! or all pods that use it would pile up there.

use crate::framework::{Happened, MAX_SCORE, Normalize, Plugin};
use crate::info::{NodeInfo, PodInfo};
use crate::snapshot::Snapshot;

const MIN_BYTES: i64 = 23 * 1024 * 1024;
/// For each container.
const MAX_BYTES: i64 = 1000 * 1024 * 1024;

pub struct ImageLocality;

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn scores(&self, _pod: &PodInfo) -> Option<Normalize> {
        Some(Normalize::No)
    }

    fn score(&self, pod: &PodInfo, node: &NodeInfo, snapshot: &Snapshot) -> i64 {
        let Some(spec) = pod.spec() else { return 0 };
        let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
        let (mut bytes, mut count) = (0_i64, 0_i64);
        for container in containers {
            count += 1;
            let name = normalized(container.image.as_deref().unwrap_or_default());
            if let Some(size) = node.images.get(&*name) {
                let spread = snapshot.nodes_with_image(&name) as f64 / snapshot.nodes().len().max(1) as f64;
                bytes += (*size as f64 * spread) as i64;
            }
        }
        let most = MAX_BYTES * count.max(1);
        MAX_SCORE * (bytes.clamp(MIN_BYTES, most) - MIN_BYTES) / (most - MIN_BYTES)
    }

    fn may_help(&self, _pod: &PodInfo, _happened: Happened<'_>) -> bool {
        false
    }
}

/// Nodes report images with a tag.
fn normalized(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    match last.contains([':', '@']) {
        true => image.to_owned(),
        false => format!("{image}:latest"),
    }
}
