//! The API server as it is shipped: the machinery with this crate's own authentication, authorisation, discovery,
//! documents, tables and way to the nodes. A simulation gets exactly the same.

use std::path::PathBuf;
use std::sync::Arc;

use coracle_client::{Clock, Ids};
use coracle_store::Store;

use crate::auth::authn::Authn;
use crate::auth::authz::Authz;
use crate::auth::enrol::Enrolment;
use crate::auth::join_token::{JoinToken, TokenError};
use crate::auth::objects::{Objects, StoredObjects};
use crate::auth::pki::{Pki, PkiConfig, PkiError};
use crate::auth::service_account::ServiceAccountTokens;
use crate::discovery::Discovery;
use crate::documents::Documents;
use crate::hooks::{Hooks, UserInfo};
use crate::node_proxy::{NodeProxy, metrics};
use crate::openapi::{OpenApi, Served};
use crate::registry::catalog::Catalog;
use crate::server::{ApiServer, ApiServerConfig, BuildError};
use crate::table::Printers;

/// The version of Kubernetes whose API is served.
pub const KUBERNETES_VERSION: &str = "v1.36.0";

#[derive(Debug)]
pub struct AssemblyConfig {
    pub api: ApiServerConfig,
    pub pki: PkiConfig,
    /// `--token`; else the one that lies in the data directory, or a new one.
    pub token: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum AssemblyError {
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("the signing key of service accounts in {} cannot be used: {source}; restore it from a backup or remove it to make a new one", path.display())]
    SigningKey {
        path: PathBuf,
        #[source]
        source: jsonwebtoken::errors::Error,
    },
    #[error(transparent)]
    Build(#[from] BuildError),
}

/// A built API server with what its process needs of it.
pub struct Assembly {
    pub api: ApiServer,
    pub pki: Arc<Pki>,
    pub enrolment: Arc<Enrolment>,
}

impl Assembly {
    pub async fn build(
        config: AssemblyConfig,
        store: Store,
        clock: Arc<dyn Clock>,
        ids: Ids,
    ) -> Result<Assembly, AssemblyError> {
        let data_dir = config.pki.data_dir.clone();
        let pki = Arc::new(Pki::open(config.pki, clock.now())?);
        let token = JoinToken::open(&data_dir, pki.server_ca().pem(), config.token.as_deref())?;
        let enrolment = Arc::new(Enrolment::new(pki.clone(), token, clock.clone()));
        let objects: Arc<dyn Objects> = Arc::new(StoredObjects::new(store.clone()));
        let issuer = format!("https://kubernetes.default.svc.{}", pki.config().cluster_domain);
        let tokens = ServiceAccountTokens::new(issuer, pki.signing_key(), clock.clone(), ids.clone(), objects.clone());
        let tokens = tokens.map_err(|source| AssemblyError::SigningKey {
            path: data_dir.join("server").join("tls").join("service-account.key"),
            source,
        })?;
        let tokens = Arc::new(tokens);
        let address = config.api.advertise.to_string();
        let (pki_of_hooks, enrolment_of_hooks, clock_of_hooks) = (pki.clone(), enrolment.clone(), clock.clone());
        let hooks = move |catalog: &Arc<Catalog>| {
            let served = served(catalog);
            let openapi = Arc::new(OpenApi::new(KUBERNETES_VERSION, served.clone()));
            Hooks {
                authenticator: Arc::new(Authn::new(tokens.clone(), clock_of_hooks.clone())),
                authorizer: Arc::new(Authz::new(objects.clone())),
                signer: tokens.clone(),
                tables: Arc::new(Printers),
                discovery: Arc::new(Discovery::new(discovered(served.clone()), address)),
                documents: Arc::new(Documents::new(openapi, tokens, enrolment_of_hooks, served)),
                node_proxy: Arc::new(NodeProxy::new(objects, &pki_of_hooks, clock_of_hooks)),
            }
        };
        let api = ApiServer::build(config.api, store, clock, ids, hooks).await?;
        enrolment.bind(api.client(UserInfo::system("system:apiserver")));
        Ok(Assembly { api, pki, enrolment })
    }

    /// Ends every watch and takes no more nodes: the first step of a shutdown. Nothing holds the store afterwards but
    /// what is still being answered.
    pub fn stop(&self) {
        self.enrolment.release();
        self.api.stop();
    }
}

/// What is served, with what is answered by the nodes.
fn discovered(served: Served) -> Served {
    Arc::new(move || served().into_iter().chain(metrics::resources()).collect())
}

fn served(catalog: &Arc<Catalog>) -> Served {
    let catalog = catalog.clone();
    Arc::new(move || catalog.all().iter().map(|resource| resource.def.clone()).collect())
}
