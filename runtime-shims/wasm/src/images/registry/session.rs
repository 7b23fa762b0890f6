//! Everything one pull or push asks about one repository. Endpoints are asked in turn; what may pass is tried again after
//! a growing pause.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use parking_lot::Mutex;
use rustls::ClientConfig;
use serde::Deserialize;
use url::Url;

use super::auth::{self, Answer};
use super::endpoints::{self, Endpoint, authority};
use super::settings::{HostTls, Registries, Timing};
use super::transport::{Body, Lost, Transport, empty};
use super::{Credentials, tls};
use crate::images::layout::OCI_INDEX;
use crate::images::manifest::MAX_DOCUMENT_BYTES;
use crate::images::{Digest, ImageError, ImageName};
use crate::listed::short;

/// What the session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::images) enum Verb {
    Pull,
    Push,
}

impl Verb {
    fn word(self) -> &'static str {
        match self {
            Verb::Pull => "pull",
            Verb::Push => "push",
        }
    }
}

pub(in crate::images) struct Session {
    name: String,
    registry: String,
    verb: Verb,
    timing: Timing,
    places: Vec<Place>,
    /// By host, for those that are no endpoint: token servers and where redirects lead.
    other_tls: HashMap<String, HostTls>,
    tls: Mutex<HashMap<Whose, Arc<ClientConfig>>>,
    transport: Transport,
}

/// Whose settings of TLS: where a redirect leads that has none of its own, those of the place hold, and they must not for
/// others that ask there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Whose {
    /// By its number.
    Place(usize),
    Other(String),
}

/// An endpoint, and who we are to it.
pub(in crate::images) struct Place {
    /// Where it is among the session's places.
    number: usize,
    endpoint: Endpoint,
    credentials: Credentials,
    authorization: Mutex<Option<HeaderValue>>,
}

/// Why one request to one endpoint failed.
#[derive(Debug)]
pub(in crate::images) enum Fault {
    /// It may pass by itself, perhaps after the time the registry names.
    Transient(String, Option<Duration>),
    NotFound,
    Denied(String),
    Final(String),
    /// What came is not what was asked for.
    Bad(ImageError),
}

impl From<Lost> for Fault {
    fn from(lost: Lost) -> Fault {
        match lost {
            Lost::Transient(why) => Fault::Transient(why, None),
            Lost::Final(why) => Fault::Final(why),
        }
    }
}

/// A blob that is being sent.
pub(in crate::images) struct Stream {
    /// Where in the blob it begins: what was asked for, or 0 if the registry cannot resume.
    pub(in crate::images) from: u64,
    /// How much of it there is, if the registry says so.
    pub(in crate::images) rest: Option<u64>,
    pub(in crate::images) body: Incoming,
}

impl Session {
    pub(in crate::images) fn open(
        name: &ImageName,
        verb: Verb,
        credentials: &Credentials,
        registries: &Registries,
    ) -> Result<Session, ImageError> {
        let full = name.to_string();
        let bad = |why: String| ImageError::Settings { name: full.clone(), why };
        let file = registries.read_file().map_err(bad)?;
        let endpoints = match verb {
            Verb::Pull => endpoints::endpoints(registries, &file, name).map_err(bad)?,
            Verb::Push => vec![endpoints::own(registries, &file, name).map_err(bad)?],
        };
        let places = endpoints
            .into_iter()
            .enumerate()
            .map(|(number, endpoint)| {
                let credentials = endpoint.credentials(credentials).map_err(bad)?;
                Ok(Place { number, endpoint, credentials, authorization: Mutex::default() })
            })
            .collect::<Result<_, ImageError>>()?;
        let other_tls = file.configs.iter().filter_map(|(host, config)| Some((host.clone(), config.tls.clone()?)));
        Ok(Session {
            verb,
            timing: registries.timing,
            places,
            other_tls: other_tls.collect(),
            tls: Mutex::default(),
            transport: Transport::new(registries.timing),
            registry: name.registry().to_owned(),
            name: full,
        })
    }

    pub(in crate::images) fn name(&self) -> &str {
        &self.name
    }

    /// Whom the name says to ask, though a mirror may answer.
    pub(in crate::images) fn registry(&self) -> &str {
        &self.registry
    }

    pub(in crate::images) fn transport(&self) -> &Transport {
        &self.transport
    }

    pub(in crate::images) fn tries(&self) -> Tries<'_> {
        Tries {
            session: self,
            faults: self.places.iter().map(|_| None).collect(),
            next: 0,
            round: 0,
            pause: self.timing.first_pause,
        }
    }

    /// A manifest's text, by tag or digest. `None` if no endpoint has it.
    pub(in crate::images) async fn manifest(
        &self,
        reference: &str,
        accept: &[&str],
    ) -> Result<Option<Vec<u8>>, ImageError> {
        let mut headers = HeaderMap::new();
        for media_type in accept {
            headers.append(header::ACCEPT, media_type.parse().expect("media types are written in this program"));
        }
        let mut tries = self.tries();
        while let Some(place) = tries.next().await {
            match self.document(place, &format!("manifests/{reference}"), &headers).await {
                Ok(text) => return Ok(Some(text)),
                Err(fault) => tries.failed(fault),
            }
        }
        tries.none()
    }

    /// The registry's own list of what refers to `digest`. `None` if no endpoint keeps such lists.
    pub(in crate::images) async fn referrers(&self, digest: &Digest) -> Result<Option<Vec<u8>>, ImageError> {
        let mut tries = self.tries();
        while let Some(place) = tries.next().await {
            match self.referrers_at(place, digest).await {
                Ok(text) => return Ok(Some(text)),
                Err(fault) => tries.failed(fault),
            }
        }
        tries.none()
    }

    /// Registries without such lists say so in many ways; go-containerregistry takes these, too.
    async fn referrers_at(&self, place: &Place, digest: &Digest) -> Result<Vec<u8>, Fault> {
        let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(OCI_INDEX))]);
        let response = self.ask(place, &format!("referrers/{digest}"), &headers).await?;
        if matches!(
            response.status(),
            StatusCode::BAD_REQUEST | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_ACCEPTABLE
        ) {
            return Err(Fault::NotFound);
        }
        let response = self.checked(response).await?;
        let media_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if media_type.and_then(|text| text.split(';').next()).map(str::trim) != Some(OCI_INDEX) {
            return Err(Fault::NotFound);
        }
        self.text(response).await
    }

    async fn document(&self, place: &Place, path: &str, headers: &HeaderMap) -> Result<Vec<u8>, Fault> {
        let response = self.get(place, path, headers).await?;
        self.text(response).await
    }

    async fn text(&self, response: Response<Incoming>) -> Result<Vec<u8>, Fault> {
        let said = response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
        let said: Option<Digest> = said.and_then(|text| text.parse().ok());
        let what = || format!("the manifest of {}", self.name);
        let text = self
            .transport
            .read(response.into_body(), MAX_DOCUMENT_BYTES)
            .await?
            .ok_or_else(|| Fault::Bad(ImageError::TooLarge { what: what(), limit_bytes: MAX_DOCUMENT_BYTES }))?;
        let digest = Digest::of(&text);
        if let Some(said) = said
            && said != digest
        {
            let why = format!("its digest is {digest}, not {said} as the registry says");
            return Err(Fault::Bad(ImageError::corrupt(what(), why)));
        }
        Ok(text)
    }

    /// Begins to fetch a blob, from its byte `from` on if the registry can do that.
    pub(in crate::images) async fn blob(&self, place: &Place, digest: &Digest, from: u64) -> Result<Stream, Fault> {
        let mut headers = HeaderMap::new();
        if from > 0 {
            let range = format!("bytes={from}-").parse().expect("digits are a header's value");
            headers.insert(header::RANGE, range);
        }
        let response = self.get(place, &format!("blobs/{digest}"), &headers).await?;
        let from = if response.status() == StatusCode::PARTIAL_CONTENT { from } else { 0 };
        let rest = response.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(Stream { from, rest, body: response.into_body() })
    }

    async fn get(&self, place: &Place, path: &str, headers: &HeaderMap) -> Result<Response<Incoming>, Fault> {
        let response = self.ask(place, path, headers).await?;
        self.checked(response).await
    }

    async fn ask(&self, place: &Place, path: &str, headers: &HeaderMap) -> Result<Response<Incoming>, Fault> {
        let url = place.endpoint.url(path).map_err(Fault::Final)?;
        let make = || {
            let mut request = Request::new(empty());
            *request.headers_mut() = headers.clone();
            request
        };
        self.request(place, url, &make).await
    }

    /// Sends what `make` makes, authorised, and follows redirects of what only reads.
    pub(in crate::images) async fn request(
        &self,
        place: &Place,
        mut url: Url,
        make: &(dyn Fn() -> Request<Body> + Send + Sync),
    ) -> Result<Response<Incoming>, Fault> {
        let mut authorised = false;
        let mut redirects = 0;
        loop {
            let mut request = make();
            let reads = matches!(*request.method(), Method::GET | Method::HEAD);
            let at_home = url.origin() == place.endpoint.base.origin();
            // Where a redirect leads to, the registry's credentials are nobody's business.
            if at_home && let Some(value) = place.authorization.lock().clone() {
                request.headers_mut().insert(header::AUTHORIZATION, value);
            }
            let response = self.transport.send(place.number, &url, || self.tls(place, &url), request).await?;
            let status = response.status();
            if status == StatusCode::UNAUTHORIZED && at_home && !authorised {
                authorised = true;
                self.authorise(place, response.headers()).await?;
                continue;
            }
            if status.is_redirection() && reads && status != StatusCode::NOT_MODIFIED {
                redirects += 1;
                if redirects > 5 {
                    return Err(Fault::Final(format!("{} redirects for ever", place.endpoint.host())));
                }
                url = redirected(&url, response.headers())?;
                continue;
            }
            return Ok(response);
        }
    }

    async fn authorise(&self, place: &Place, headers: &HeaderMap) -> Result<(), Fault> {
        let challenges: Vec<_> = headers
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(auth::challenges)
            .collect();
        let actions = match self.verb {
            Verb::Pull => "pull",
            Verb::Push => "pull,push",
        };
        let scope = format!("repository:{}:{actions}", place.endpoint.repository);
        let refused = |why: String| Fault::Denied(format!("{} refused access: {why}", place.endpoint.host()));
        let answer = auth::answer(&challenges, &place.credentials, &place.endpoint.base, &scope).map_err(refused)?;
        let value = match answer {
            Answer::Authorize(value) => value,
            Answer::Exchange(url, request) => {
                let response = self.transport.send(place.number, &url, || self.tls(place, &url), *request).await?;
                let status = response.status();
                if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST) {
                    return Err(refused(format!("its token server {} answered {status}", authority(&url))));
                }
                let response = self.checked(response).await?;
                let text = self.transport.read(response.into_body(), MAX_DOCUMENT_BYTES).await?.unwrap_or_default();
                auth::token(&text).map_err(refused)?
            }
        };
        *place.authorization.lock() = Some(value);
        Ok(())
    }

    /// What a status means.
    pub(in crate::images) async fn checked(&self, response: Response<Incoming>) -> Result<Response<Incoming>, Fault> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let after = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        // An answer that cannot be read says less, but the status says enough.
        let text = self.transport.read(response.into_body(), 64 << 10).await.ok().flatten().unwrap_or_default();
        let told = told(&text);
        let why =
            if told.is_empty() { format!("it answered {status}") } else { format!("it answered {status}: {told}") };
        Err(match status {
            StatusCode::NOT_FOUND => Fault::NotFound,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Fault::Denied(format!("the registry refused access: {why}"))
            }
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                Fault::Transient(why, after.map(Duration::from_secs))
            }
            status if status.is_server_error() => Fault::Transient(why, after.map(Duration::from_secs)),
            _ => Fault::Final(why),
        })
    }

    /// One configuration for each settings, not for each host: a registry may lead to as many as it likes, and each would
    /// have the system's roots read.
    pub(super) fn tls(&self, place: &Place, url: &Url) -> Result<Arc<ClientConfig>, String> {
        let host = authority(url);
        let own = (host != place.endpoint.host()).then(|| self.other_tls.get(&host)).flatten();
        let (whose, settings) = match own {
            Some(own) => (Whose::Other(host), Some(own)),
            None => (Whose::Place(place.number), place.endpoint.config.tls.as_ref()),
        };
        if let Some(config) = self.tls.lock().get(&whose) {
            return Ok(config.clone());
        }
        let config = tls::client_config(settings)?;
        self.tls.lock().insert(whose, config.clone());
        Ok(config)
    }
}

impl Place {
    pub(in crate::images) fn number(&self) -> usize {
        self.number
    }

    pub(in crate::images) fn url(&self, path: &str) -> Result<Url, Fault> {
        self.endpoint.url(path).map_err(Fault::Final)
    }
}

fn redirected(from: &Url, headers: &HeaderMap) -> Result<Url, Fault> {
    let location = headers.get(header::LOCATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let to =
        from.join(location).map_err(|error| Fault::Final(format!("redirected to {:?}: {error}", short(location))))?;
    match (from.scheme(), to.scheme()) {
        ("https", "https") | ("http", "http" | "https") => Ok(to),
        (_, _) => {
            let (from, to) = (authority(from), short(location));
            Err(Fault::Final(format!("redirected from {from} to {to:?}, which is less safe")))
        }
    }
}

/// The registry's own words.
fn told(text: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Envelope {
        errors: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(envelope) = serde_json::from_slice::<Envelope>(text) else { return String::new() };
    let lines: Vec<String> = envelope
        .errors
        .iter()
        .take(3)
        .map(|Entry { code, message }| format!("{code} {message}").trim().chars().take(300).collect())
        .collect();
    lines.join("; ")
}

/// The endpoints in turn, again and again until nothing is left to hope for.
pub(in crate::images) struct Tries<'a> {
    session: &'a Session,
    /// The last fault of each place.
    faults: Vec<Option<Fault>>,
    /// The place after the one that was given out last.
    next: usize,
    round: u32,
    pause: Duration,
}

impl<'a> Tries<'a> {
    pub(in crate::images) async fn next(&mut self) -> Option<&'a Place> {
        loop {
            while self.next < self.faults.len() {
                let at = self.next;
                self.next += 1;
                if matches!(self.faults[at], None | Some(Fault::Transient(..))) {
                    return Some(&self.session.places[at]);
                }
            }
            let waits = self.faults.iter().filter_map(|fault| match fault {
                Some(Fault::Transient(_, after)) => Some(after.unwrap_or_default()),
                Some(Fault::NotFound | Fault::Denied(_) | Fault::Final(_) | Fault::Bad(_)) | None => None,
            });
            let named = waits.min()?;
            self.round += 1;
            if self.round >= self.session.timing.attempts {
                return None;
            }
            // A registry that names an hour is not waited for: the caller tries again in its own time.
            tokio::time::sleep(self.pause.max(named.min(Duration::from_secs(30)))).await;
            self.pause = (self.pause * 2).min(Duration::from_secs(30));
            self.next = 0;
        }
    }

    pub(in crate::images) fn failed(&mut self, fault: Fault) {
        let at = self.next.saturating_sub(1);
        tracing::debug!(
            image = self.session.name,
            endpoint = self.session.places[at].endpoint.host(),
            ?fault,
            "request failed"
        );
        self.faults[at] = Some(fault);
    }

    /// The last attempt got somewhere, so that it counts as none.
    pub(in crate::images) fn progressed(&mut self) {
        self.round = 0;
        self.pause = self.session.timing.first_pause;
    }

    /// When all has failed: nothing is there, or nobody could say.
    fn none<T>(self) -> Result<Option<T>, ImageError> {
        match self.error() {
            ImageError::NotFound { .. } => Ok(None),
            error => Err(error),
        }
    }

    /// What to say when all has failed.
    pub(in crate::images) fn error(self) -> ImageError {
        let name = self.session.name.clone();
        let several = self.faults.len() > 1;
        let mut told = Vec::new();
        let mut denied = false;
        let mut all_absent = true;
        for (fault, place) in self.faults.into_iter().zip(&self.session.places) {
            let Some(fault) = fault else { continue };
            all_absent &= matches!(fault, Fault::NotFound);
            let why = match fault {
                Fault::Bad(error) => return error,
                Fault::Denied(why) => {
                    denied = true;
                    why
                }
                Fault::NotFound => "not found".to_owned(),
                Fault::Transient(why, _) | Fault::Final(why) => why,
            };
            told.push(if several { format!("{}: {why}", place.endpoint.host()) } else { why });
        }
        let (verb, why) = (self.session.verb.word(), told.join("; "));
        match (denied, all_absent) {
            (true, _) => ImageError::Unauthorized { verb, name, why },
            (false, true) => ImageError::NotFound { verb, name },
            (false, false) => ImageError::Registry { verb, name, why },
        }
    }
}
