//! What a pod may ask for and the scheduler of this release does not look at. Whoever asks is told so: two replicas that must
//! not share a node may well do. Whoever adds the plugin takes its line out.

use coracle_api::fields::FieldPath;
use k8s_openapi::api::core::v1::PodSpec;

use crate::registry::context::Context;

pub(in crate::strategy) fn tell(context: &Context, spec: &PodSpec, at: &FieldPath<'_>) {
    let affinity = spec.affinity.as_ref();
    let spread = spec.topology_spread_constraints.as_ref().is_some_and(|all| !all.is_empty());
    for (asked, field) in [
        (affinity.is_some_and(|affinity| affinity.pod_affinity.is_some()), "affinity.podAffinity"),
        (affinity.is_some_and(|affinity| affinity.pod_anti_affinity.is_some()), "affinity.podAntiAffinity"),
        (spread, "topologySpreadConstraints"),
    ] {
        if asked {
            let effect = "pods are placed without regard to where others are";
            context.warn(format!("{at}.{field} is stored but not acted upon in this release: {effect}"));
        }
    }
}
