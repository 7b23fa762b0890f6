//! Service account tokens for pods: asked for once, kept until four fifths of their life are over.

use std::collections::HashMap;
use std::sync::Arc;

use coracle_api::Uid;
use coracle_client::{Client, Clock, Pod};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ServiceAccount, ServiceAccountTokenProjection};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// A token is renewed a day before its end at the latest, and its end is never farther off than that for long.
const LIFE_MAX: SignedDuration = SignedDuration::from_hours(24);
const LIFE_DEFAULT_SECONDS: i64 = 3600;

/// A token as it is recorded on the node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredToken {
    pub audience: String,
    pub expiration_seconds: i64,
    pub token: String,
    pub issued: Timestamp,
    pub expires: Timestamp,
}

impl StoredToken {
    /// When a new one is asked for, as kubelet reckons.
    pub fn renew_at(&self) -> Timestamp {
        // The host's clock may have been wrong when it was issued: its life is never taken to be longer than asked for.
        let asked = SignedDuration::from_secs(self.expiration_seconds);
        let life = self.expires.duration_since(self.issued);
        let life = if life.is_positive() { life.min(asked) } else { asked };
        let wait = SignedDuration::from_secs(life.as_secs() / 5 * 4).min(LIFE_MAX);
        self.issued.checked_add(wait).unwrap_or(self.expires)
    }

    /// Time for a new one has come, or the clock was set back behind the token's own time.
    fn is_due(&self, now: Timestamp) -> bool {
        now >= self.renew_at() || now < self.issued
    }
}

/// The tokens of this node's pods. Cheap to clone.
#[derive(Clone)]
pub struct Tokens {
    client: Client,
    clock: Arc<dyn Clock>,
    /// A pod has one or two, of different audiences or lives.
    known: Arc<Mutex<HashMap<Uid, Vec<StoredToken>>>>,
}

impl Tokens {
    pub fn new(client: Client, clock: Arc<dyn Clock>) -> Self {
        Self { client, clock, known: Arc::default() }
    }

    /// What was recorded on this node.
    pub fn seed(&self, pod: &Uid, tokens: Vec<StoredToken>) {
        self.known.lock().insert(pod.clone(), tokens);
    }

    pub fn of(&self, pod: &Uid) -> Vec<StoredToken> {
        self.known.lock().get(pod).cloned().unwrap_or_default()
    }

    pub fn forget(&self, pod: &Uid) {
        self.known.lock().remove(pod);
    }

    /// The token for a projection. A server that is away is no fault while the token at hand is still good.
    pub async fn get(&self, pod: &Pod, wanted: &ServiceAccountTokenProjection) -> Result<StoredToken, String> {
        let uid = Uid::from(pod.metadata.uid.as_deref().unwrap_or_default());
        let audience = wanted.audience.clone().unwrap_or_default();
        let seconds = wanted.expiration_seconds.unwrap_or(LIFE_DEFAULT_SECONDS);
        let is_it = |token: &StoredToken| token.audience == audience && token.expiration_seconds == seconds;
        let now = self.clock.now();
        let known = self.known.lock().get(&uid).and_then(|tokens| tokens.iter().find(|token| is_it(token)).cloned());
        if let Some(known) = known.as_ref().filter(|known| !known.is_due(now)) {
            return Ok(known.clone());
        }
        match self.request(pod, &audience, seconds, now).await {
            Ok(token) => {
                let mut known = self.known.lock();
                let tokens = known.entry(uid).or_insert_with(|| Vec::with_capacity(1));
                match tokens.iter_mut().find(|token| is_it(token)) {
                    Some(old) => *old = token.clone(),
                    None => tokens.push(token.clone()),
                }
                Ok(token)
            }
            Err(error) => match known {
                // A clock that was wrong at boot, or a long time without server: the old token is all there is.
                Some(known) if error.is_retriable() => Ok(known),
                Some(_) | None => Err(format!("failed to fetch token: {error}")),
            },
        }
    }

    async fn request(
        &self,
        pod: &Pod,
        audience: &str,
        seconds: i64,
        now: Timestamp,
    ) -> Result<StoredToken, coracle_client::Error> {
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let bound = BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
        };
        let spec = TokenRequestSpec {
            audiences: (!audience.is_empty()).then(|| vec![audience.to_owned()]),
            bound_object_ref: Some(bound),
            expiration_seconds: Some(seconds),
        };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let api = self.client.namespaced::<ServiceAccount>(namespace);
        let answer: TokenRequest = api.create_subresource(account, "token", &request).await?;
        let status = answer.status.unwrap_or_default();
        Ok(StoredToken {
            audience: audience.to_owned(),
            expiration_seconds: seconds,
            token: status.token.unwrap_or_default(),
            issued: now,
            expires: status.expiration_timestamp.map_or(now, |time| time.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(issued: &str, expires: &str) -> StoredToken {
        let (issued, expires) = (issued.parse().unwrap(), expires.parse().unwrap());
        StoredToken { audience: String::new(), expiration_seconds: 3600, token: "t".into(), issued, expires }
    }

    #[test]
    fn a_token_is_renewed_in_time_whatever_the_clock_said() {
        let due = |issued, now: &str| token(issued, "2026-01-01T01:00:00Z").is_due(now.parse().unwrap());
        assert!(!due("2026-01-01T00:00:00Z", "2026-01-01T00:47:59Z"));
        assert!(due("2026-01-01T00:00:00Z", "2026-01-01T00:48:00Z"));
        // Issued before the clock was set: 48 minutes of the old time count, not the 56 years in between.
        assert!(due("1970-01-01T00:00:00Z", "1970-01-01T00:48:00Z"));
        // Issued while the clock was ahead.
        assert!(!due("2030-01-01T00:00:00Z", "2030-01-01T00:10:00Z"));
        assert!(due("2030-01-01T00:00:00Z", "2026-01-01T00:10:00Z"));
    }
}
