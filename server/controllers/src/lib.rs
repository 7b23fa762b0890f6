//! coracle-controllers: the loops that bring the cluster to what its objects ask for. One module per controller; in each
//! a pure `plan` decides over typed objects and the module around it gathers inputs and carries out effects.
//!
//! They reach state only through the API: `api` and `client` are all they import. They never ask who runs the server,
//! where it keeps its data, or whether there are other controllers.

mod answer;
mod backend;
mod cluster_roles;
mod context;
mod deployment;
mod discovery;
mod disruption;
mod each_namespace;
mod endpoints;
mod endpointslice;
mod garbage;
mod indexes;
mod memory;
mod monitors;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod overlay;
mod owner;
mod pace;
mod pod;
mod pod_gc;
mod replicaset;
#[cfg(test)]
mod testing;
mod time;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use coracle_client::{Client, Clock, Ids, Informers, TaskScope};
use ipnet::Ipv4Net;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::ReplicationController;

use crate::context::Context;
use crate::monitors::Monitors;
pub use crate::node_ipam::RangeError;

/// What the controllers have to be told.
#[derive(Clone, Debug)]
pub struct ControllersConfig {
    /// Pod addresses of the whole cluster.
    pub cluster_cidr: Ipv4Net,
    /// Prefix length of a node's share of it.
    pub node_mask: u8,
    /// The certificate of the cluster's CA, which goes into every namespace.
    pub ca_pem: String,
    pub disable: BTreeSet<Controller>,
}

macro_rules! controllers {
    ($($variant:ident $name:literal),* $(,)?) => {
        /// A controller, by the name that upstream's `--controllers` knows it by.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Controller {
            $($variant),*
        }

        impl Controller {
            pub const ALL: &[Controller] = &[$(Controller::$variant),*];

            pub fn name(self) -> &'static str {
                match self {
                    $(Controller::$variant => $name),*
                }
            }
        }
    };
}

controllers! {
    Deployment "deployment-controller",
    ReplicaSet "replicaset-controller",
    ReplicationController "replicationcontroller-controller",
    Endpoints "endpoints-controller",
    EndpointSlice "endpointslice-controller",
    Namespace "namespace-controller",
    GarbageCollector "garbage-collector-controller",
    ServiceAccount "serviceaccount-controller",
    RootCa "root-ca-certificate-publisher-controller",
    NodeLifecycle "node-lifecycle-controller",
    TaintEviction "taint-eviction-controller",
    NodeIpam "node-ipam-controller",
    PodGc "pod-garbage-collector-controller",
    ClusterRoleAggregation "clusterrole-aggregation-controller",
    Disruption "disruption-controller",
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no controller {name:?}; there are: {}", Controller::ALL.iter().map(|c| c.name()).collect::<Vec<_>>().join(", "))]
pub struct UnknownController {
    pub name: String,
}

impl FromStr for Controller {
    type Err = UnknownController;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().copied().find(|c| c.name() == name).ok_or_else(|| UnknownController { name: name.to_owned() })
    }
}

/// Starts the controllers as tasks of `scope`. Each begins to act when its informers have synced.
pub fn start(
    config: ControllersConfig,
    client: Client,
    informers: Informers,
    clock: Arc<dyn Clock>,
    ids: Ids,
    scope: &TaskScope,
) -> Result<(), RangeError> {
    let ranges = node_ipam::Ranges::new(config.cluster_cidr, config.node_mask)?;
    let scope = scope.child("controllers");
    let root = Context::new(client, informers, clock, ids, &scope);
    let on = |controller: Controller| (!config.disable.contains(&controller)).then(|| root.named(controller.name()));
    let monitors = Monitors::new(&root.named("resource-monitors"));
    for controller in Controller::ALL {
        let Some(context) = on(*controller) else { continue };
        match controller {
            Controller::Deployment => deployment::start(context),
            Controller::ReplicaSet => replicaset::start::<ReplicaSet>(context),
            Controller::ReplicationController => replicaset::start::<ReplicationController>(context),
            Controller::Endpoints => endpoints::start(context),
            Controller::EndpointSlice => endpointslice::start(context),
            Controller::Namespace => namespace::start(context, &monitors),
            Controller::GarbageCollector => garbage::start(context, &monitors),
            Controller::ServiceAccount => each_namespace::start_service_account(context),
            Controller::RootCa => each_namespace::start_root_ca(context, &config.ca_pem),
            Controller::NodeLifecycle => node_lifecycle::start(context),
            Controller::TaintEviction => node_lifecycle::start_eviction(context),
            Controller::NodeIpam => node_ipam::start(context, ranges),
            Controller::PodGc => pod_gc::start(context),
            Controller::ClusterRoleAggregation => cluster_roles::start(context),
            Controller::Disruption => disruption::start(context),
        }
    }
    monitors.start();
    Ok(())
}
