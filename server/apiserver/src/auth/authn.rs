//! Owns finding out who sends a request: an in-process client, a client certificate, a service account's token. Whoever
//! shows none is nobody, and nobody may only ask whether the server is well, its version and how to join.

use std::sync::Arc;

use coracle_api::status::Status;
use coracle_client::Clock;
use http::header::AUTHORIZATION;
use http::request::Parts;
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};

use super::authz;
use super::join_token::hex;
use super::pki::believable;
use super::service_account::ServiceAccountTokens;
use crate::hooks::{Authenticator, TokenIdentity, UserInfo};

const AUTHENTICATED: &str = "system:authenticated";
pub(super) const ANONYMOUS: &str = "system:anonymous";
pub(super) const UNAUTHENTICATED: &str = "system:unauthenticated";

/// Whom the certificate of a TLS connection names; the connection's acceptor puts it into each request's extensions.
#[derive(Clone, Debug)]
pub struct Peer {
    pub user: Arc<UserInfo>,
    pub not_after: Timestamp,
}

impl Peer {
    /// Reads a certificate that the handshake has verified. `None` if it names nobody.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Peer> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let subject = parsed.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?;
        if name.is_empty() {
            return None;
        }
        let mut user = UserInfo { name: name.to_owned(), ..UserInfo::default() };
        user.groups.extend(subject.iter_organization().filter_map(|group| group.as_str().ok()).map(str::to_owned));
        user.groups.push(AUTHENTICATED.to_owned());
        let id = format!("X509SHA256={}", hex(&Sha256::digest(certificate)));
        user.extra.insert("authentication.kubernetes.io/credential-id".to_owned(), vec![id]);
        let not_after = Timestamp::from_second(parsed.validity().not_after.timestamp()).ok()?;
        Some(Peer { user: Arc::new(user), not_after })
    }
}

/// The server's authenticator.
pub struct Authn {
    tokens: Arc<ServiceAccountTokens>,
    clock: Arc<dyn Clock>,
    anonymous: Arc<UserInfo>,
}

impl Authn {
    pub fn new(tokens: Arc<ServiceAccountTokens>, clock: Arc<dyn Clock>) -> Authn {
        let anonymous = Arc::new(UserInfo::new(ANONYMOUS, &[UNAUTHENTICATED]));
        Authn { tokens, clock, anonymous }
    }
}

/// The bearer token of a request, if it has one.
pub(super) fn bearer(parts: &Parts) -> Option<&str> {
    let value = parts.headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

impl Authenticator for Authn {
    fn authenticate(&self, parts: &Parts) -> Result<Arc<UserInfo>, Status> {
        if let Some(user) = parts.extensions.get::<Arc<UserInfo>>() {
            return Ok(user.clone());
        }
        // A connection may outlive the certificate it was made with.
        if let Some(peer) = parts.extensions.get::<Peer>()
            && believable(self.clock.now()) < peer.not_after
        {
            return Ok(peer.user.clone());
        }
        let verb = parts.method.as_str().to_ascii_lowercase();
        let path = parts.uri.path();
        // Joining judges its token itself; elsewhere a wrong credential is worse than none.
        let open = authz::is_open(&verb, path) || (verb == "get" && matches!(path, "/version" | "/version/"));
        match bearer(parts) {
            None if open => Ok(self.anonymous.clone()),
            Some(_) if open && path == super::enrol::NODE_PATH => Ok(self.anonymous.clone()),
            None => Err(Status::unauthorized("Unauthorized")),
            Some(token) => match self.tokens.verify(token, &[]) {
                Ok(identity) => Ok(Arc::new(identity.user)),
                Err(refused) => {
                    tracing::debug!(path, %refused, "refused a bearer token");
                    Err(Status::unauthorized("Unauthorized"))
                }
            },
        }
    }

    fn review_token(&self, token: &str, audiences: &[String]) -> Result<TokenIdentity, String> {
        self.tokens.verify(token, audiences).map_err(|refused| refused.to_string())
    }
}
