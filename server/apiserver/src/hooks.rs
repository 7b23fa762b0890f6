//! The seams between the generic machinery (HTTP, registry, admission) and the parts that know more: who a user is,
//! what they may do, how tables look, how discovery documents read, how a node is reached. The machinery calls these
//! traits and knows no implementation; `ApiServer::build` gets them as one `Hooks`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use coracle_api::object::Object;
use coracle_api::schema::ResourceDef;
use coracle_api::status::Status;
use futures::future::BoxFuture;
use jiff::Timestamp;
use serde_json::Value;

use crate::http::request_info::RequestInfo;

/// Who sends a request. In-process clients carry it in the request's extensions as `Arc<UserInfo>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserInfo {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A user of the system itself: in `system:masters`, to whom everything is allowed.
    pub fn system(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            groups: vec!["system:masters".to_owned(), "system:authenticated".to_owned()],
            ..Self::default()
        }
    }

    pub fn new(name: &str, groups: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            ..Self::default()
        }
    }

    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }
}

/// What a token says about its bearer, for TokenReview.
#[derive(Debug, Clone)]
pub struct TokenIdentity {
    pub user: UserInfo,
    pub audiences: Vec<String>,
}

/// Finds out who sends a request. Synchronous: it looks into memory (certificates, keys, store snapshots) only.
pub trait Authenticator: Send + Sync {
    /// The user behind the request's credentials (client certificate in the extensions, bearer token, impersonation
    /// aside), or 401. A request without credentials is `system:anonymous` where the configuration allows it.
    fn authenticate(&self, parts: &http::request::Parts) -> Result<Arc<UserInfo>, Status>;

    /// Checks a token for TokenReview. `Err` is the text for `status.error`.
    fn review_token(&self, token: &str, audiences: &[String]) -> Result<TokenIdentity, String>;
}

/// What is asked of an `Authorizer`.
#[derive(Debug, Clone, Default)]
pub struct Attributes<'a> {
    pub verb: &'a str,
    pub namespace: &'a str,
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub name: &'a str,
    /// False for paths such as /healthz: then only `verb` and `path` count.
    pub resource_request: bool,
    pub path: &'a str,
    /// The `fieldSelector` parameter as sent; empty when there is none. A node may list only its own pods.
    pub field_selector: &'a str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Allow(String),
    /// Nobody allows it; the reason may be empty.
    NoOpinion(String),
    /// Somebody forbids it outright.
    Deny(String),
}

/// The rules a user has in a namespace, for SelfSubjectRulesReview.
#[derive(Debug, Clone, Default)]
pub struct RuleList {
    /// Each a `ResourceRule` of authorization.k8s.io/v1 as JSON.
    pub resource_rules: Vec<Value>,
    /// Each a `NonResourceRule`.
    pub non_resource_rules: Vec<Value>,
    pub incomplete: bool,
    pub evaluation_error: String,
}

pub trait Authorizer: Send + Sync {
    fn authorize(&self, user: &UserInfo, attributes: &Attributes<'_>) -> Decision;

    fn rules(&self, user: &UserInfo, namespace: &str) -> RuleList;
}

/// What a service account token is to say.
#[derive(Debug, Clone)]
pub struct TokenSpec {
    pub namespace: String,
    pub service_account: String,
    pub service_account_uid: String,
    /// Empty: the API server's own audience.
    pub audiences: Vec<String>,
    pub expiration_seconds: i64,
    /// The Pod, Secret or Node it is bound to.
    pub bound: Option<BoundObject>,
    /// For a pod-bound token: the node the pod runs on (name, uid).
    pub node: Option<(String, String)>,
}

#[derive(Debug, Clone)]
pub struct BoundObject {
    pub kind: String,
    pub api_version: String,
    pub name: String,
    pub uid: String,
}

#[derive(Debug, Clone)]
pub struct SignedToken {
    pub token: String,
    pub audiences: Vec<String>,
    pub expires: Timestamp,
}

pub trait TokenSigner: Send + Sync {
    fn sign(&self, spec: &TokenSpec) -> Result<SignedToken, Status>;
}

/// One column of a Table, as `TableColumnDefinition`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    /// `string`, `integer`, `boolean`, `number`, `date`.
    pub r#type: String,
    /// `name` for the column that holds the object's name, else empty.
    pub format: String,
    pub description: String,
    /// 0 is shown always, 1 with `-o wide`.
    pub priority: i32,
}

/// One row: a cell per column, and `TableRowCondition`s (a pod that is over is `Completed`).
#[derive(Debug, Clone, Default)]
pub struct Row {
    pub cells: Vec<Value>,
    pub conditions: Vec<Value>,
}

/// Columns and cells of each kind. The envelope (Table, rows with their objects, headers once per watch) is made by
/// the HTTP side.
pub trait Tables: Send + Sync {
    fn columns(&self, def: &ResourceDef) -> Vec<Column>;

    fn row(&self, def: &ResourceDef, object: &Object, now: Timestamp) -> Row;
}

/// A request that is authenticated and authorised and whose answer the generic registry does not give.
pub struct RawRequest {
    pub info: RequestInfo,
    pub user: Arc<UserInfo>,
    pub request: http::Request<Body>,
}

/// Answers whole requests: discovery, OpenAPI, streams to a node.
pub trait Endpoint: Send + Sync {
    fn call(&self, request: RawRequest) -> BoxFuture<'static, http::Response<Body>>;
}

/// Everything the machinery needs from outside it.
#[derive(Clone)]
pub struct Hooks {
    pub authenticator: Arc<dyn Authenticator>,
    pub authorizer: Arc<dyn Authorizer>,
    pub signer: Arc<dyn TokenSigner>,
    pub tables: Arc<dyn Tables>,
    /// `/api`, `/api/v1`, `/apis`, `/apis/{group}`, `/apis/{group}/{version}`.
    pub discovery: Arc<dyn Endpoint>,
    /// `/openapi/...`, `/.well-known/openid-configuration`, `/openid/v1/jwks` and whatever else is no resource.
    pub documents: Arc<dyn Endpoint>,
    /// Subresources that reach a node or a backend: pods/log, exec, attach, portforward, proxy; nodes/proxy; services/proxy.
    pub node_proxy: Arc<dyn Endpoint>,
}
