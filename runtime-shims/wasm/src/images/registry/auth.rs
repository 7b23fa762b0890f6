//! What a registry demands of who asks: Basic, or a token from a token server. Reads challenges and makes requests for
//! tokens; sends nothing.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Request, header};
use serde::Deserialize;
use url::Url;

use super::Credentials;
use super::transport::{Body, empty, full};
use crate::listed::short;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// What is to be done about a challenge.
pub(super) enum Answer {
    /// Ask again with this.
    Authorize(HeaderValue),
    /// Ask the token server first.
    Exchange(Url, Box<Request<Body>>),
}

/// The challenges of one `WWW-Authenticate`, of which there may be several; unknown ones are passed over.
pub(super) fn challenges(header: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    let mut rest = header.trim_start();
    while let Some(end) = rest.find([' ', ',']).or((!rest.is_empty()).then_some(rest.len())) {
        let scheme = rest[..end].to_ascii_lowercase();
        rest = &rest[end..];
        let (mut realm, mut service, mut scope) = (None, None, None);
        while let Some((key, value, after)) = parameter(rest) {
            rest = after;
            match key.to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value),
                "service" => service = Some(value),
                "scope" => scope = Some(value),
                _ => {}
            }
        }
        rest = rest.trim_start_matches([' ', ',']);
        match (scheme.as_str(), realm) {
            ("basic", _) => found.push(Challenge::Basic),
            ("bearer", Some(realm)) => found.push(Challenge::Bearer { realm, service, scope }),
            (_, _) => {}
        }
    }
    found
}

/// `key=value` or `key="value"` at the beginning, and what follows.
fn parameter(text: &str) -> Option<(&str, String, &str)> {
    let text = text.trim_start_matches([' ', ',']);
    let (key, rest) = text.split_once('=')?;
    if key.is_empty() || key.contains([' ', ',', '"']) {
        return None;
    }
    let Some(quoted) = rest.strip_prefix('"') else {
        let end = rest.find([',', ' ']).unwrap_or(rest.len());
        return Some((key, rest[..end].to_owned(), &rest[end..]));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((key, value, &quoted[at + 1..])),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            other => value.push(other),
        }
    }
    None
}

/// Chooses among the challenges what `credentials` can meet. `scope` stands in where the registry names none.
pub(super) fn answer(
    challenges: &[Challenge],
    credentials: &Credentials,
    endpoint: &Url,
    scope: &str,
) -> Result<Answer, String> {
    if let Credentials::Token(token) = credentials {
        return bearer(token).map(Answer::Authorize);
    }
    for challenge in challenges {
        match (challenge, credentials) {
            (Challenge::Bearer { realm, service, scope: wanted }, _) => {
                let scope = wanted.as_deref().unwrap_or(scope);
                return exchange(realm, service.as_deref(), scope, credentials, endpoint);
            }
            (Challenge::Basic, Credentials::Password { user, password }) => {
                return basic(user, password).map(Answer::Authorize);
            }
            (Challenge::Basic, _) => {}
        }
    }
    Err(match credentials {
        Credentials::Anonymous => "it wants credentials and there are none".to_owned(),
        Credentials::Password { .. }
        | Credentials::IdentityToken(_)
        | Credentials::Token(_)
        | Credentials::For { .. } => "it wants another kind of credentials".to_owned(),
    })
}

fn exchange(
    realm: &str,
    service: Option<&str>,
    scope: &str,
    credentials: &Credentials,
    endpoint: &Url,
) -> Result<Answer, String> {
    let mut url =
        Url::parse(realm).map_err(|error| format!("its token server {:?} is no address: {error}", short(realm)))?;
    // A registry must not have a password sent in the clear that it was not itself sent.
    if url.scheme() != "https" && !(url.scheme() == "http" && endpoint.scheme() == "http") {
        return Err(format!("its token server {:?} is not reached by HTTPS", short(realm)));
    }
    if let Credentials::IdentityToken(token) = credentials {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "refresh_token").append_pair("client_id", "coracle");
        form.append_pair("service", service.unwrap_or_default()).append_pair("scope", scope);
        form.append_pair("refresh_token", token);
        let form = form.finish();
        let request = Request::post("/")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::CONTENT_LENGTH, form.len())
            .body(full(form))
            .map_err(|error| error.to_string())?;
        return Ok(Answer::Exchange(url, Box::new(request)));
    }
    if let Some(service) = service {
        url.query_pairs_mut().append_pair("service", service);
    }
    // Several scopes in one challenge are separated by spaces, and asked for one by one.
    for scope in scope.split(' ').filter(|scope| !scope.is_empty()) {
        url.query_pairs_mut().append_pair("scope", scope);
    }
    let mut request = Request::get("/");
    if let Credentials::Password { user, password } = credentials {
        request = request.header(header::AUTHORIZATION, basic(user, password)?);
    }
    Ok(Answer::Exchange(url, Box::new(request.body(empty()).map_err(|error| error.to_string())?)))
}

/// What a token server answered.
pub(super) fn token(answer: &[u8]) -> Result<HeaderValue, String> {
    #[derive(Deserialize)]
    struct Token {
        token: Option<String>,
        access_token: Option<String>,
    }
    let parsed: Token =
        serde_json::from_slice(answer).map_err(|error| format!("its token server's answer makes no sense: {error}"))?;
    let token = parsed.token.filter(|token| !token.is_empty()).or(parsed.access_token);
    bearer(&token.ok_or("its token server gave no token")?)
}

fn bearer(token: &str) -> Result<HeaderValue, String> {
    secret(&format!("Bearer {token}"))
}

fn basic(user: &str, password: &str) -> Result<HeaderValue, String> {
    secret(&format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
}

fn secret(text: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_str(text).map_err(|_| "the credentials have characters that cannot be sent")?;
    value.set_sensitive(true);
    Ok(value)
}
