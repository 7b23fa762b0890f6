//! From a RuntimeClass handler to the runtime that serves it.

use std::collections::BTreeMap;

use crate::endpoint::Endpoint;

/// The handler of a pod's RuntimeClass is not served on this node. Worded as the runtimes that kubelet drives word it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to get sandbox runtime: no runtime for \"{handler}\" is configured")]
pub struct UnknownHandler {
    pub handler: String,
}

/// Handlers (`wasm`, `runc`, …) and the endpoints that serve them. Several handlers may name one endpoint.
#[derive(Clone, Debug)]
pub struct RuntimeRouter {
    /// The default is always first.
    endpoints: Vec<Endpoint>,
    handlers: BTreeMap<String, usize>,
    claimant: Option<String>,
}

impl RuntimeRouter {
    /// A router whose `default` serves pods without a handler.
    pub fn new(default: Endpoint) -> Self {
        Self { endpoints: vec![default], handlers: BTreeMap::new(), claimant: None }
    }

    /// Sends `handler` to `endpoint`. An endpoint of a name already known is taken to be the same one.
    pub fn with_handler(mut self, handler: &str, endpoint: Endpoint) -> Self {
        let index = match self.endpoints.iter().position(|known| known.name() == endpoint.name()) {
            Some(index) => index,
            None => {
                self.endpoints.push(endpoint);
                self.endpoints.len() - 1
            }
        };
        self.handlers.insert(handler.to_owned(), index);
        self
    }

    /// Pods without a handler are offered to this one's endpoint first: it takes those whose images are of its kind, and
    /// says of others what [`crate::other_kind`] makes.
    pub fn with_claimant(mut self, handler: &str) -> Self {
        self.claimant = Some(handler.to_owned());
        self
    }

    /// The handler given to [`RuntimeRouter::with_claimant`].
    pub fn claimant(&self) -> Option<&str> {
        self.claimant.as_deref()
    }

    /// The endpoint of a handler; the empty handler is the default.
    pub fn route(&self, handler: &str) -> Result<&Endpoint, UnknownHandler> {
        if handler.is_empty() {
            return Ok(&self.endpoints[0]);
        }
        match self.handlers.get(handler) {
            Some(index) => Ok(&self.endpoints[*index]),
            None => Err(UnknownHandler { handler: handler.to_owned() }),
        }
    }

    /// Every distinct endpoint, the default first.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// The handlers in name order, for the node's `status.runtimeHandlers`.
    pub fn handlers(&self) -> impl Iterator<Item = &str> {
        self.handlers.keys().map(String::as_str)
    }
}
