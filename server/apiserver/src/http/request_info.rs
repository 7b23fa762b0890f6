//! What a request is about, read from its method, path and query as upstream's RequestInfo resolver reads it: one parse
//! by hand in place of a route per kind, so that custom resources need no route of their own.

use coracle_api::selector::FieldSelector;
use coracle_api::status::Status;
use http::Method;

use super::query::{Query, decode};

/// The Kubernetes verb of a request; `Other` is the lower-case HTTP method of a non-resource request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
    /// The `/api/v1/proxy/...` form, long gone upstream.
    Proxy,
    /// A method that is no verb (OPTIONS, TRACE…).
    Unknown,
}

impl Verb {
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
            Verb::Proxy => "proxy",
            Verb::Unknown => "",
        }
    }

    fn of(method: &Method) -> Self {
        match *method {
            Method::GET | Method::HEAD => Verb::Get,
            Method::POST => Verb::Create,
            Method::PUT => Verb::Update,
            Method::PATCH => Verb::Patch,
            Method::DELETE => Verb::Delete,
            _ => Verb::Unknown,
        }
    }
}

/// The request, parsed. For a non-resource request only `path`, `method` and `verb_text` count.
#[derive(Debug, Clone)]
pub struct RequestInfo {
    pub method: Method,
    /// As sent, still percent-encoded.
    pub path: String,
    pub query: Query,
    pub is_resource: bool,
    pub verb: Verb,
    pub group: String,
    pub version: String,
    pub namespace: String,
    pub resource: String,
    pub subresource: String,
    pub name: String,
    /// What follows the subresource (`/proxy/` paths), percent-encoded, with its leading slash, or empty.
    pub rest: String,
    /// Came as `/api/v1/watch/...`.
    pub watch_prefix: bool,
}

/// Below a namespace's name these are subresources; anything else is a namespaced resource.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

impl RequestInfo {
    pub fn parse(method: &Method, path: &str, query: Option<&str>) -> Result<Self, Status> {
        let mut info = Self {
            method: method.clone(),
            path: path.to_owned(),
            query: Query::parse(query),
            is_resource: false,
            verb: Verb::of(method),
            group: String::new(),
            version: String::new(),
            namespace: String::new(),
            resource: String::new(),
            subresource: String::new(),
            name: String::new(),
            rest: String::new(),
            watch_prefix: false,
        };
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let mut parts = match segments.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => {
                info.version = decode(version, false).into_owned();
                rest
            }
            ["apis", group, version, rest @ ..] if !rest.is_empty() => {
                info.group = decode(group, false).into_owned();
                info.version = decode(version, false).into_owned();
                rest
            }
            _ => return Ok(info),
        };
        info.is_resource = true;
        if let [special @ ("watch" | "proxy"), rest @ ..] = parts {
            if rest.is_empty() {
                let text = format!("unable to determine kind and namespace from url, {path}");
                return Err(Status::bad_request(text));
            }
            info.verb = if *special == "watch" { Verb::Watch } else { Verb::Proxy };
            info.watch_prefix = *special == "watch";
            parts = rest;
        }
        info.take_parts(parts, path.ends_with('/'));
        info.settle_verb();
        Ok(info)
    }

    /// The verb's name for authorisation: the HTTP method in lower case where there is no resource.
    pub fn verb_text(&self) -> String {
        if self.is_resource { self.verb.as_str().to_owned() } else { self.method.as_str().to_ascii_lowercase() }
    }

    fn take_parts(&mut self, mut parts: &[&str], trailing_slash: bool) {
        if let ["namespaces", namespace, rest @ ..] = parts {
            self.namespace = decode(namespace, false).into_owned();
            if rest.first().is_some_and(|next| !NAMESPACE_SUBRESOURCES.contains(next)) {
                parts = rest;
            }
        }
        let part = |index: usize| parts.get(index).map(|part| decode(part, false).into_owned()).unwrap_or_default();
        self.resource = part(0);
        self.name = part(1);
        self.subresource = part(2);
        if parts.len() > 3 {
            self.rest = format!("/{}", parts[3..].join("/"));
        }
        if trailing_slash && !self.subresource.is_empty() {
            self.rest.push('/');
        }
    }

    fn settle_verb(&mut self) {
        if !self.name.is_empty() {
            return;
        }
        match self.verb {
            Verb::Get => {
                self.verb = if self.query.flag("watch").unwrap_or(false) { Verb::Watch } else { Verb::List };
            }
            Verb::Delete => self.verb = Verb::DeleteCollection,
            Verb::List
            | Verb::Watch
            | Verb::Create
            | Verb::Update
            | Verb::Patch
            | Verb::DeleteCollection
            | Verb::Proxy
            | Verb::Unknown => {}
        }
        // A list or watch of one object by its name is authorised as that object.
        if matches!(self.verb, Verb::List | Verb::Watch) {
            // Read by the parser that selects, or what is authorised would not be what is sent.
            let selector = self.query.text("fieldSelector").parse::<FieldSelector>().unwrap_or_default();
            let selected = selector.exact("metadata.name");
            if let Some(name) = selected.filter(|name| coracle_api::names::path_segment(name).is_empty()) {
                name.clone_into(&mut self.name);
            }
        }
    }
}
