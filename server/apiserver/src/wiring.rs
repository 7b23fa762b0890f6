//! Owns putting this crate's own parts behind the hooks: certificates, tokens, roles, printers, documents, nodes. A test
//! may give the machinery other hooks.

use std::sync::{Arc, Weak};

use coracle_api::schema::ResourceDef;
use coracle_client::{Client, Clock, Ids};
use coracle_store::Store;

use crate::auth::authn::Authn;
use crate::auth::authz::Authz;
use crate::auth::enrol::Enrolment;
use crate::auth::join_token::JoinToken;
use crate::auth::objects::{Objects, StoredObjects};
use crate::auth::pki::Pki;
use crate::auth::service_account::ServiceAccountTokens;
use crate::discovery::Discovery;
use crate::documents::Documents;
use crate::hooks::Hooks;
use crate::node_proxy::NodeProxy;
use crate::openapi::{OpenApi, Served};
use crate::registry::catalog::Catalog;
use crate::table::Printers;

/// The Kubernetes version whose API is served.
pub const KUBERNETES_VERSION: &str = "v1.36.0";

/// What the parts need besides the store.
pub struct Parts {
    pub pki: Arc<Pki>,
    pub store: Store,
    pub clock: Arc<dyn Clock>,
    pub ids: Ids,
    /// Where clients reach this server, `127.0.0.1:6443`.
    pub address: String,
}

/// The parts, ready to be hooked in.
pub struct Wiring {
    parts: Parts,
    tokens: Arc<ServiceAccountTokens>,
    enrolment: Arc<Enrolment>,
    objects: Arc<dyn Objects>,
}

/// Given back from hooking in: what can only be finished once the server stands.
#[derive(Clone)]
pub struct Unbound {
    enrolment: Arc<Enrolment>,
}

impl Unbound {
    /// Gives nodes' enrolment the client through which it keeps what it knows of them.
    pub fn bind(&self, client: Client) {
        self.enrolment.bind(client);
    }

    /// The bundle that joining machines trust, and the token they show.
    pub fn join_token(&self) -> String {
        self.enrolment.token().text()
    }
}

impl Wiring {
    /// Fails if the key that signs tokens cannot be used.
    pub fn new(parts: Parts, token: JoinToken) -> Result<Wiring, jsonwebtoken::errors::Error> {
        let objects: Arc<dyn Objects> = Arc::new(StoredObjects::new(parts.store.clone()));
        let issuer = format!("https://kubernetes.default.svc.{}", parts.pki.config().cluster_domain);
        let tokens = ServiceAccountTokens::new(
            issuer,
            parts.pki.signing_key(),
            parts.clock.clone(),
            parts.ids.clone(),
            objects.clone(),
        )?;
        let enrolment = Enrolment::new(parts.pki.clone(), token, parts.clock.clone());
        Ok(Wiring { tokens: Arc::new(tokens), enrolment: Arc::new(enrolment), objects, parts })
    }

    pub fn unbound(&self) -> Unbound {
        Unbound { enrolment: self.enrolment.clone() }
    }

    /// The hooks, for `ApiServer::build`.
    pub fn hooks(self, catalog: &Arc<Catalog>) -> Hooks {
        let Wiring { parts, tokens, enrolment, objects } = self;
        let served = served(catalog);
        let openapi = Arc::new(OpenApi::new(KUBERNETES_VERSION, served.clone()));
        Hooks {
            authenticator: Arc::new(Authn::new(tokens.clone(), parts.clock.clone())),
            authorizer: Arc::new(Authz::new(objects.clone())),
            signer: tokens.clone(),
            tables: Arc::new(Printers),
            discovery: Arc::new(Discovery::new(served.clone(), parts.address)),
            documents: Arc::new(Documents::new(openapi, tokens, enrolment, served)),
            node_proxy: Arc::new(NodeProxy::new(objects, &parts.pki, parts.clock)),
        }
    }
}

/// What the catalog serves at the moment. The catalog's owner owns these hooks too, so they must not keep it alive.
fn served(catalog: &Arc<Catalog>) -> Served {
    let catalog: Weak<Catalog> = Arc::downgrade(catalog);
    Arc::new(move || -> Vec<Arc<ResourceDef>> {
        let all = catalog.upgrade().map(|catalog| catalog.all()).unwrap_or_default();
        all.iter().map(|resource| resource.def.clone()).collect()
    })
}
