//! Owns how a machine becomes a node: it shows a join token, or proves that it is the machine that had the name before,
//! and gets certificates for its keys. A node's name belongs to the machine that took it first: that machine's password
//! is kept, hashed, as a Secret.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use coracle_api::names;
use coracle_api::status::{Reason, Status};
use coracle_client::{Client, Clock};
use http::Method;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::authn::bearer;
use super::authz::node_name;
use super::join_token::{JoinToken, hex};
use super::pki::{Pki, PkiError, San, check_request};
use crate::hooks::RawRequest;
use crate::http::{body, respond};

/// Where the bundle lies that a joining machine checks its token's hash against.
pub const CA_PATH: &str = "/cacerts";
/// Where it asks for certificates.
pub const NODE_PATH: &str = "/v1-coracle/node-certificate";

const NAMESPACE: &str = "kube-system";
const SECRET_KEY: &str = "hash";
const SECRET_TYPE: &str = "coracle.dev/node-password";
const MAX_BYTES: usize = 64 * 1024;
/// A node makes its password up, so it can be long: its plain hash tells nothing then.
const LEAST_PASSWORD: usize = 32;

/// What a machine sends. Keys never leave it: it sends signing requests.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnrolRequest {
    pub node_name: String,
    /// Made by the machine at its first start, at least 32 characters, and kept: it proves later that it is the same.
    pub node_password: String,
    /// PEM. Signed by the key with which it will speak to this server.
    pub client_csr: String,
    /// PEM. Signed by the key of its node API.
    pub serving_csr: String,
    /// Addresses and names under which its node API is reached.
    #[serde(default)]
    pub addresses: Vec<String>,
}

/// What it gets. All PEM.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EnrolResponse {
    /// For user `system:node:<name>` in group `system:nodes`.
    pub client_certificate: String,
    pub serving_certificate: String,
    /// Whom to trust as a server.
    pub server_ca: String,
    /// Whose certificates the node API shall accept.
    pub client_ca: String,
    /// Of the addresses asked for, those in the certificate: a node may not claim the server's own.
    pub addresses: Vec<String>,
}

/// Signs certificates of nodes.
pub struct Enrolment {
    pki: Arc<Pki>,
    token: JoinToken,
    clock: Arc<dyn Clock>,
    client: RwLock<Option<Client>>,
}

/// What is known of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Nobody,
    Asker,
    Another,
}

impl Enrolment {
    pub fn new(pki: Arc<Pki>, token: JoinToken, clock: Arc<dyn Clock>) -> Enrolment {
        Enrolment { pki, token, clock, client: RwLock::new(None) }
    }

    /// Gives it the client with which passwords are kept; before that nobody can enrol.
    pub fn bind(&self, client: Client) {
        *self.client.write() = Some(client);
    }

    /// Lets go of that client: it holds the server, which holds this, and a stopped server must let go of its store.
    pub fn release(&self) {
        *self.client.write() = None;
    }

    pub fn token(&self) -> &JoinToken {
        &self.token
    }

    pub fn ca_bundle(&self) -> String {
        self.pki.server_ca().pem().to_owned()
    }

    pub(crate) async fn call(&self, request: RawRequest) -> http::Response<Body> {
        if request.request.method() != Method::POST {
            let text = "send the node's signing requests with POST";
            return respond::status(&Status::new(405, Reason::MethodNotAllowed, text));
        }
        match self.answer(request).await {
            Ok(response) => match serde_json::to_string(&response) {
                Ok(json) => respond::plain(200, "application/json", Body::from(json)),
                Err(error) => respond::status(&Status::internal(error)),
            },
            Err(status) => respond::status(&status),
        }
    }

    async fn answer(&self, request: RawRequest) -> Result<EnrolResponse, Status> {
        let user = request.user.clone();
        let (parts, body) = request.request.into_parts();
        let body = body::read(body, MAX_BYTES).await?;
        let asked: EnrolRequest = serde_json::from_slice(&body)
            .map_err(|error| Status::bad_request(format!("the body is no enrolment request: {error}")))?;
        check(&asked)?;
        // In-process agents are trusted as the process is; a node's own certificate speaks for its own name.
        let trusted = user.in_group("system:masters") || node_name(&user) == Some(&asked.node_name);
        let has_token = trusted || bearer(&parts).is_some_and(|token| self.token.accepts(token));
        let client = self.client.read().clone().ok_or_else(|| {
            Status::service_unavailable("this server is still starting; try again in a second").with_retry_after(1)
        })?;
        let owner = owner(&client, &asked).await?;
        decide(owner, has_token, &asked.node_name)?;
        if owner == Owner::Nobody {
            keep(&client, &asked).await?;
        }
        let is_local = user.in_group("system:masters");
        let response = self.sign(&asked, is_local)?;
        tracing::info!(node = asked.node_name, new = owner == Owner::Nobody, "enrolled a node");
        Ok(response)
    }

    fn sign(&self, asked: &EnrolRequest, is_local: bool) -> Result<EnrolResponse, Status> {
        let now = self.clock.now();
        let refused = |error: PkiError| match error {
            PkiError::Request(_) | PkiError::San(_) => Status::bad_request(error.to_string()),
            PkiError::Read { .. }
            | PkiError::Write { .. }
            | PkiError::Damaged { .. }
            | PkiError::Missing { .. }
            | PkiError::Issue { .. }
            | PkiError::Tls { .. } => Status::internal(error),
        };
        let sans = self.grant(asked, is_local).map_err(refused)?;
        let addresses = sans.iter().map(ToString::to_string).collect();
        let client = self.pki.sign_node_client(&asked.node_name, &asked.client_csr, now).map_err(refused)?;
        let serving = self.pki.sign_node_serving(&asked.node_name, sans, &asked.serving_csr, now).map_err(refused)?;
        Ok(EnrolResponse {
            client_certificate: client,
            serving_certificate: serving,
            server_ca: self.pki.server_ca().pem().to_owned(),
            client_ca: self.pki.client_ca().pem().to_owned(),
            addresses,
        })
    }

    /// The names a node's serving certificate may carry: its own name, and addresses that are not this server's, or it
    /// could pose as the server.
    fn grant(&self, asked: &EnrolRequest, is_local: bool) -> Result<Vec<San>, PkiError> {
        let ours = self.pki.serving_names();
        let mut sans = Vec::new();
        for address in std::iter::once(&asked.node_name).chain(&asked.addresses) {
            let san = San::parse(address)?;
            let own_name = matches!(&san, San::Dns(name) if *name == asked.node_name);
            let is_address = matches!(san, San::Ip(_));
            if (own_name || is_address) && (is_local || !ours.contains(&san)) && !sans.contains(&san) {
                sans.push(san);
            }
        }
        Ok(sans)
    }
}

fn check(asked: &EnrolRequest) -> Result<(), Status> {
    let faults = names::dns1123_subdomain(&asked.node_name);
    if let Some(fault) = faults.first() {
        return Err(Status::bad_request(format!("nodeName {:?}: {fault}", asked.node_name)));
    }
    if asked.node_password.len() < LEAST_PASSWORD {
        return Err(Status::bad_request(format!("nodePassword must have at least {LEAST_PASSWORD} characters")));
    }
    for (field, csr) in [("clientCsr", &asked.client_csr), ("servingCsr", &asked.serving_csr)] {
        check_request(csr).map_err(|error| Status::bad_request(format!("{field}: {error}")))?;
    }
    Ok(())
}

/// Whether the asker gets certificates.
fn decide(owner: Owner, has_token: bool, node: &str) -> Result<(), Status> {
    match (owner, has_token) {
        (Owner::Nobody | Owner::Asker, true) | (Owner::Asker, false) => Ok(()),
        (Owner::Nobody, false) => Err(Status::unauthorized(
            "the join token is missing or wrong: start the agent with --token and what lies in server/token of the server's data directory",
        )),
        (Owner::Another, _) => Err(Status::new(
            403,
            Reason::Forbidden,
            format!(
                "the node name {node:?} belongs to another machine. Give this one another name with --node-name; or, if that machine is gone or was set up anew: kubectl delete secret --namespace {NAMESPACE} {}",
                secret_name(node)
            ),
        )),
    }
}

fn secret_name(node: &str) -> String {
    format!("{node}.node-password.coracle")
}

/// Salted with the node's name, so that one password on two nodes does not show.
fn hash(asked: &EnrolRequest) -> String {
    let mut hash = Sha256::new();
    hash.update(&asked.node_name);
    hash.update([0]);
    hash.update(&asked.node_password);
    hex(&hash.finalize())
}

async fn owner(client: &Client, asked: &EnrolRequest) -> Result<Owner, Status> {
    let secrets = client.namespaced::<Secret>(NAMESPACE);
    let stored = secrets.get_opt(&secret_name(&asked.node_name)).await.map_err(|error| unavailable(&error))?;
    let Some(secret) = stored else { return Ok(Owner::Nobody) };
    let kept = secret.data.as_ref().and_then(|data| data.get(SECRET_KEY)).map(|kept| kept.0.as_slice());
    let is_asker = kept.is_some_and(|kept| kept.ct_eq(hash(asked).as_bytes()).into());
    Ok(if is_asker { Owner::Asker } else { Owner::Another })
}

async fn keep(client: &Client, asked: &EnrolRequest) -> Result<(), Status> {
    let secret = Secret {
        metadata: ObjectMeta { name: Some(secret_name(&asked.node_name)), ..ObjectMeta::default() },
        type_: Some(SECRET_TYPE.to_owned()),
        immutable: Some(true),
        data: Some(BTreeMap::from([(SECRET_KEY.to_owned(), ByteString(hash(asked).into_bytes()))])),
        ..Secret::default()
    };
    match client.namespaced::<Secret>(NAMESPACE).create(&secret).await {
        Ok(_) => Ok(()),
        // Two machines asked for one name at once: the other one was first, unless it was this one asking twice.
        Err(error) if error.is_already_exists() => decide(owner(client, asked).await?, true, &asked.node_name),
        Err(error) => Err(unavailable(&error)),
    }
}

fn unavailable(error: &coracle_client::Error) -> Status {
    Status::service_unavailable(format!("cannot look up who owns the node's name: {error}")).with_retry_after(1)
}
