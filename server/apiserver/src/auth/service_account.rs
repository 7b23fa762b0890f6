//! Owns the tokens of service accounts: JSON Web Tokens (ES256), bound to an account and often to a pod, secret or node.
//! A token holds as long as its time and as what it is bound to exists.

use std::sync::Arc;

use coracle_api::status::Status;
use coracle_client::{Clock, Ids};
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::objects::Objects;
use super::pki::{SigningKey, believable};
use crate::hooks::{BoundObject, SignedToken, TokenIdentity, TokenSigner, TokenSpec, UserInfo};

const USER_PREFIX: &str = "system:serviceaccount:";
/// Clocks of two machines differ.
const LEEWAY: SignedDuration = SignedDuration::from_secs(60);
/// A pod's token given for an hour lives for a year, because programs of before its renewal never read it again.
const WARN_AFTER_SECONDS: i64 = 3607;
const EXTENDED_SECONDS: i64 = 365 * 24 * 3600;

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    aud: Vec<String>,
    exp: i64,
    iat: i64,
    iss: String,
    jti: String,
    #[serde(rename = "kubernetes.io")]
    private: Private,
    nbf: i64,
    sub: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Private {
    namespace: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<Reference>,
    serviceaccount: Reference,
    #[serde(skip_serializing_if = "Option::is_none")]
    warnafter: Option<i64>,
}

#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Reference {
    name: String,
    #[serde(default)]
    uid: String,
}

/// Why a token is not accepted; each is 401 and its text goes into the log or a TokenReview.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Not one of ours: another authenticator may know it.
    #[error("the token is not of this cluster")]
    Foreign,
    #[error("invalid bearer token: {0}")]
    Invalid(String),
    #[error("service account token has expired")]
    Expired,
    #[error("service account token is not valid yet")]
    Early,
    #[error("token audiences {token:?} is invalid for the target audiences {wanted:?}")]
    Audience { token: Vec<String>, wanted: Vec<String> },
    #[error("service account token has been invalidated: {0} no longer exists")]
    Gone(String),
}

/// Signs and checks tokens of service accounts.
pub struct ServiceAccountTokens {
    issuer: String,
    key_id: String,
    public: (String, String),
    encoding: EncodingKey,
    decoding: DecodingKey,
    clock: Arc<dyn Clock>,
    ids: Ids,
    objects: Arc<dyn Objects>,
}

impl std::fmt::Debug for ServiceAccountTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceAccountTokens").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

impl ServiceAccountTokens {
    /// `issuer` is the URL tokens name, which is also their default audience.
    pub fn new(
        issuer: String,
        key: &SigningKey,
        clock: Arc<dyn Clock>,
        ids: Ids,
        objects: Arc<dyn Objects>,
    ) -> Result<Self, jsonwebtoken::errors::Error> {
        super::signing::install();
        Ok(ServiceAccountTokens {
            encoding: EncodingKey::from_ec_pem(key.pem.as_bytes())?,
            decoding: DecodingKey::from_ec_components(&key.x, &key.y)?,
            key_id: key.id.clone(),
            public: (key.x.clone(), key.y.clone()),
            issuer,
            clock,
            ids,
            objects,
        })
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The discovery document of OpenID Connect.
    pub fn openid_configuration(&self) -> Value {
        json!({
            "issuer": self.issuer,
            "jwks_uri": format!("{}/openid/v1/jwks", self.issuer),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }

    /// The public keys, as JSON Web Keys.
    pub fn key_set(&self) -> Value {
        let (x, y) = &self.public;
        json!({ "keys": [{ "use": "sig", "kty": "EC", "kid": self.key_id, "crv": "P-256", "alg": "ES256", "x": x, "y": y }] })
    }

    /// Who bears `token`. `audiences` are those of which one has to be meant; empty stands for this server's own.
    pub fn verify(&self, token: &str, audiences: &[String]) -> Result<TokenIdentity, Refused> {
        let claims = self.decode(token)?;
        let now = believable(self.clock.now());
        let at = |seconds: i64| Timestamp::from_second(seconds).map_err(|error| Refused::Invalid(error.to_string()));
        if now > at(claims.exp)?.saturating_add(LEEWAY).unwrap_or(Timestamp::MAX) {
            return Err(Refused::Expired);
        }
        if now < at(claims.nbf)?.saturating_sub(LEEWAY).unwrap_or(Timestamp::MIN) {
            return Err(Refused::Early);
        }
        let own = [self.issuer.clone()];
        let wanted = if audiences.is_empty() { &own[..] } else { audiences };
        let meant: Vec<String> = wanted.iter().filter(|audience| claims.aud.contains(audience)).cloned().collect();
        if meant.is_empty() {
            return Err(Refused::Audience { token: claims.aud, wanted: wanted.to_vec() });
        }
        self.check_bound(&claims.private)?;
        Ok(TokenIdentity { user: user(&claims), audiences: meant })
    }

    fn decode(&self, token: &str) -> Result<Claims, Refused> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| Refused::Foreign)?;
        if header.kid.as_deref().is_some_and(|id| id != self.key_id) {
            return Err(Refused::Invalid("it was signed with a key this server does not have".to_owned()));
        }
        let mut rules = Validation::new(Algorithm::ES256);
        // Times are judged by the injected clock, audiences by the caller's.
        rules.validate_exp = false;
        rules.validate_nbf = false;
        rules.validate_aud = false;
        rules.set_required_spec_claims(&["exp", "sub", "aud", "iss"]);
        rules.set_issuer(&[&self.issuer]);
        let decoded = jsonwebtoken::decode::<Claims>(token, &self.decoding, &rules);
        decoded.map(|data| data.claims).map_err(|error| Refused::Invalid(error.to_string()))
    }

    fn check_bound(&self, bound: &Private) -> Result<(), Refused> {
        let namespace = &bound.namespace;
        let exists = |resource: &str, namespace: &str, reference: &Reference| {
            let found = self.objects.uid(resource, namespace, &reference.name);
            if found.is_some_and(|uid| reference.uid.is_empty() || uid == reference.uid) {
                Ok(())
            } else {
                Err(Refused::Gone(format!("{} {}", resource.trim_end_matches('s'), reference.name)))
            }
        };
        exists("serviceaccounts", namespace, &bound.serviceaccount)?;
        if let Some(pod) = &bound.pod {
            exists("pods", namespace, pod)?;
        }
        if let Some(secret) = &bound.secret {
            exists("secrets", namespace, secret)?;
        }
        // A pod's token names its node too, for information; one bound to a node alone ends with the node.
        if let (Some(node), None) = (&bound.node, &bound.pod) {
            exists("nodes", "", node)?;
        }
        Ok(())
    }
}

fn user(claims: &Claims) -> UserInfo {
    let bound = &claims.private;
    let (namespace, account) = (&bound.namespace, &bound.serviceaccount);
    let mut user = UserInfo {
        name: format!("{USER_PREFIX}{namespace}:{}", account.name),
        uid: account.uid.clone(),
        groups: vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
            "system:authenticated".to_owned(),
        ],
        ..UserInfo::default()
    };
    let mut extra = |key: &str, value: &str| {
        if !value.is_empty() {
            user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        }
    };
    extra("credential-id", &if claims.jti.is_empty() { String::new() } else { format!("JTI={}", claims.jti) });
    if let Some(pod) = &bound.pod {
        extra("pod-name", &pod.name);
        extra("pod-uid", &pod.uid);
    }
    if let Some(node) = &bound.node {
        extra("node-name", &node.name);
        extra("node-uid", &node.uid);
    }
    user
}

/// Namespace and name of the account behind a user name, if it is one.
pub fn split_user(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix(USER_PREFIX)?.split_once(':')
}

impl TokenSigner for ServiceAccountTokens {
    fn sign(&self, spec: &TokenSpec) -> Result<SignedToken, Status> {
        let now = believable(self.clock.now());
        let audiences = if spec.audiences.is_empty() { vec![self.issuer.clone()] } else { spec.audiences.clone() };
        let reference = |kind: &str| {
            let bound: Option<&BoundObject> = spec.bound.as_ref().filter(|bound| bound.kind == kind);
            bound.map(|bound| Reference { name: bound.name.clone(), uid: bound.uid.clone() })
        };
        let pod = reference("Pod");
        let node = match &spec.node {
            Some((name, uid)) => Some(Reference { name: name.clone(), uid: uid.clone() }),
            None => reference("Node"),
        };
        let (mut seconds, mut warnafter) = (spec.expiration_seconds, None);
        if pod.is_some() && seconds == WARN_AFTER_SECONDS && audiences == [self.issuer.clone()] {
            warnafter = Some(now.as_second() + seconds);
            seconds = EXTENDED_SECONDS;
        }
        let expires = now.as_second() + seconds;
        let claims = Claims {
            aud: audiences.clone(),
            exp: expires,
            iat: now.as_second(),
            iss: self.issuer.clone(),
            jti: self.ids.uuid().to_string(),
            private: Private {
                namespace: spec.namespace.clone(),
                node,
                pod,
                secret: reference("Secret"),
                serviceaccount: Reference { name: spec.service_account.clone(), uid: spec.service_account_uid.clone() },
                warnafter,
            },
            nbf: now.as_second(),
            sub: format!("{USER_PREFIX}{}:{}", spec.namespace, spec.service_account),
        };
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.key_id.clone());
        let token = jsonwebtoken::encode(&header, &claims, &self.encoding).map_err(Status::internal)?;
        // What is asked for is answered, also when the token holds for longer.
        let told = warnafter.unwrap_or(expires);
        let expires = Timestamp::from_second(told).map_err(Status::internal)?;
        Ok(SignedToken { token, audiences, expires })
    }
}
