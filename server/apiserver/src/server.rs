//! Puts the parts together: one `ApiServer` for one store.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use axum::Router;
use coracle_api::status::Status;
use coracle_client::{Client, Clock, Ids, OnExit, TaskScope};
use coracle_store::Store;
use ipnet::Ipv4Net;
use tower::ServiceExt as _;

use crate::admission::Admission;
use crate::auth::authz::bootstrap;
use crate::hooks::{Hooks, UserInfo};
use crate::http::{self, Limits, Server};
use crate::registry::Registry;
use crate::registry::addresses::ServiceAddresses;
use crate::registry::catalog::Catalog;

#[derive(Debug, Clone)]
pub struct ApiServerConfig {
    /// Where pods reach this server: the endpoint of the `kubernetes` Service.
    pub advertise: SocketAddr,
    /// Cluster addresses of Services.
    pub service_cidr: Ipv4Net,
    pub node_ports: RangeInclusive<u16>,
    pub limits: Limits,
}

impl ApiServerConfig {
    /// The cluster defaults.
    pub fn new(advertise: SocketAddr) -> Self {
        let network = std::net::Ipv4Addr::new(127, 43, 0, 0);
        Self {
            advertise,
            service_cidr: Ipv4Net::new(network, 16).expect("16 is a valid prefix length"),
            node_ports: 30_000..=32_767,
            limits: Limits::default(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("cannot set up the objects that every cluster starts with: {0}")]
    Bootstrap(Status),
    #[error("cannot set up the roles and bindings that every cluster starts with")]
    Roles(#[source] coracle_client::Error),
}

/// The API over one store. Cheap to clone.
#[derive(Clone)]
pub struct ApiServer {
    server: Arc<Server>,
    router: Router,
}

impl ApiServer {
    /// Builds the server and makes the objects exist that every cluster starts with. `hooks` gets the catalog of
    /// resources, which discovery and OpenAPI describe.
    pub async fn build(
        config: ApiServerConfig,
        store: Store,
        clock: Arc<dyn Clock>,
        ids: Ids,
        hooks: impl FnOnce(&Arc<Catalog>) -> Hooks,
    ) -> Result<ApiServer, BuildError> {
        let catalog = Arc::new(Catalog::builtin());
        let hooks = hooks(&catalog);
        let registry = Registry {
            store,
            catalog,
            clock,
            ids,
            authorizer: hooks.authorizer.clone(),
            admission: Admission::default(),
            addresses: ServiceAddresses::new(config.service_cidr, config.node_ports),
        };
        registry.bootstrap(config.advertise).await.map_err(BuildError::Bootstrap)?;
        let server = Arc::new(Server::new(Arc::new(registry), hooks, config.limits));
        let api = ApiServer { router: http::router(server.clone()), server };
        bootstrap::ensure(&api.client(UserInfo::system("system:apiserver"))).await.map_err(BuildError::Roles)?;
        Ok(api)
    }

    /// The whole API as a tower service. Requests carry who sends them: as `Arc<UserInfo>` in their extensions, by the
    /// connection's certificate, or by a token.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// A client in this process that acts as `user`, without TCP or TLS.
    pub fn client(&self, user: UserInfo) -> Client {
        let user = Arc::new(user);
        let router = self.router.clone();
        Client::new(router.map_request(move |mut request: ::http::Request<coracle_client::Body>| {
            request.extensions_mut().insert(user.clone());
            request.map(axum::body::Body::new)
        }))
    }

    /// Starts what the server does by itself: Events are deleted an hour after their last change.
    pub fn spawn_upkeep(&self, scope: &TaskScope) {
        let registry = self.server.registry.clone();
        scope.spawn("expire-events", OnExit::restart(), move |cancel| registry.clone().expire_events(cancel));
    }

    pub fn registry(&self) -> &Arc<Registry> {
        &self.server.registry
    }

    /// Ends every watch and reports not ready from now on: the first step of a shutdown.
    pub fn stop(&self) {
        self.server.stopping.cancel();
    }
}
