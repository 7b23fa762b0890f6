//! Who shares a worker process, by the RuntimeClass handler of the pod. No I/O.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::records::SandboxRecord;

/// The handlers that are served, beside none at all, which is the first of them.
pub(super) const HANDLERS: [&str; 3] = [NODE, NAMESPACE, POD];

const NODE: &str = "wasm";
const NAMESPACE: &str = "wasm-namespace";
const POD: &str = "wasm-pod";

/// Guests that share a worker.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Domain {
    /// All of the node that asked for nothing else.
    Node,
    Namespace(String),
    /// By the sandbox's id.
    Pod(String),
}

impl Domain {
    /// Of a pod that is to be. Worded as the runtimes that kubelet drives word it.
    pub(super) fn check(handler: &str) -> Result<(), String> {
        if handler.is_empty() || HANDLERS.contains(&handler) {
            return Ok(());
        }
        let known = HANDLERS.join(", ");
        Err(format!("failed to get sandbox runtime: no runtime for {handler:?} is configured (there are {known})"))
    }

    pub(super) fn of(sandbox: &SandboxRecord) -> Domain {
        match sandbox.handler.as_str() {
            NAMESPACE => Domain::Namespace(sandbox.config.read().metadata.unwrap_or_default().namespace),
            POD => Domain::Pod(sandbox.id.clone()),
            _ => Domain::Node,
        }
    }
}

/// For sentences: "the Wasm worker process of …".
impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Domain::Node => f.write_str("this node"),
            Domain::Namespace(namespace) => write!(f, "namespace {namespace}"),
            Domain::Pod(_) => f.write_str("this pod"),
        }
    }
}

#[cfg(test)]
mod tests {
    use coracle_cri::v1::PodSandboxConfig;

    use super::super::packed::Packed;
    use super::*;

    fn domain(handler: &str) -> Domain {
        let metadata = coracle_cri::v1::PodSandboxMetadata { namespace: "shop".to_owned(), ..Default::default() };
        Domain::of(&SandboxRecord {
            id: "abc".to_owned(),
            created_at: 0,
            handler: handler.to_owned(),
            ready: true,
            ip: None,
            config: Packed::new(&PodSandboxConfig { metadata: Some(metadata), ..PodSandboxConfig::default() }),
        })
    }

    #[test]
    fn the_handler_says_who_shares_a_worker() {
        assert_eq!(domain(""), Domain::Node);
        assert_eq!(domain("wasm"), Domain::Node);
        assert_eq!(domain("wasm-namespace"), Domain::Namespace("shop".to_owned()));
        assert_eq!(domain("wasm-pod"), Domain::Pod("abc".to_owned()));
    }

    #[test]
    fn another_handler_is_refused_with_those_there_are() {
        assert_eq!(
            Domain::check("runc").unwrap_err(),
            "failed to get sandbox runtime: no runtime for \"runc\" is configured (there are wasm, wasm-namespace, \
             wasm-pod)"
        );
        for handler in HANDLERS {
            assert_eq!(Domain::check(handler), Ok(()));
        }
    }
}
