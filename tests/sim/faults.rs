//! A seeded layer of faults between a client and the server: requests are delayed, lost before or after they had their
//! effect, watches are cut in the middle or told 410. Nothing here knows what the requests mean.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use coracle_apiserver::{ApiServer, UserInfo};
use coracle_client::{Body, BoxError, Client};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tower::Service;

/// How often what goes wrong, in thousandths.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rates {
    pub(crate) lost_before: u32,
    pub(crate) lost_after: u32,
    pub(crate) expired: u32,
    /// Each frame of a watch may be its last.
    pub(crate) cut: u32,
    pub(crate) delay_max: Duration,
}

impl Rates {
    pub(crate) const NONE: Rates =
        Rates { lost_before: 0, lost_after: 0, expired: 0, cut: 0, delay_max: Duration::ZERO };
    pub(crate) const ROUGH: Rates =
        Rates { lost_before: 40, lost_after: 40, expired: 30, cut: 60, delay_max: Duration::from_millis(400) };
}

/// The shared switchboard of one simulation.
#[derive(Clone)]
pub(crate) struct Faults {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    rng: StdRng,
    rates: Rates,
    /// Clients that reach nobody.
    partitioned: std::collections::BTreeSet<String>,
    trace: Vec<String>,
    seen: std::collections::BTreeMap<&'static str, u32>,
}

enum Fate {
    Passes,
    LostBefore,
    LostAfter,
    Expired,
}

impl Faults {
    pub(crate) fn new(seed: u64) -> Faults {
        let inner = Inner {
            rng: StdRng::seed_from_u64(seed),
            rates: Rates::NONE,
            partitioned: Default::default(),
            trace: Vec::new(),
            seen: Default::default(),
        };
        Faults { inner: Arc::new(Mutex::new(inner)) }
    }

    pub(crate) fn set(&self, rates: Rates) {
        self.inner.lock().rates = rates;
    }

    pub(crate) fn partition(&self, who: &str, cut: bool) {
        let mut inner = self.inner.lock();
        if cut {
            inner.partitioned.insert(who.to_owned());
        } else {
            inner.partitioned.remove(who);
        }
    }

    /// A client of `who` that reaches whichever server `switch` holds at the moment, through this layer.
    pub(crate) fn client(&self, who: &str, user: UserInfo, switch: &Switch) -> Client {
        Client::new(Faulty { who: Arc::from(who), user, switch: switch.clone(), faults: self.clone() })
    }

    /// One line per request, in the order they were made: two runs of one seed give the same lines.
    pub(crate) fn trace(&self) -> Vec<String> {
        self.inner.lock().trace.clone()
    }

    /// How many faults of each kind were injected.
    pub(crate) fn seen(&self) -> std::collections::BTreeMap<&'static str, u32> {
        self.inner.lock().seen.clone()
    }

    pub(crate) fn random(&self, below: u32) -> u32 {
        self.inner.lock().rng.random_range(0..below)
    }

    fn decide(&self, who: &str, request: &Request<Body>) -> (Duration, Fate) {
        let mut inner = self.inner.lock();
        let rates = inner.rates;
        let delay = match rates.delay_max.as_millis() as u64 {
            0 => Duration::ZERO,
            max => Duration::from_millis(inner.rng.random_range(0..max)),
        };
        let roll = inner.rng.random_range(0..1000u32);
        let watch = request.uri().query().is_some_and(|q| q.contains("watch=1") || q.contains("watch=true"));
        let (name, fate) = if inner.partitioned.contains(who) {
            ("partitioned", Fate::LostBefore)
        } else if roll < rates.lost_before {
            ("lost before", Fate::LostBefore)
        } else if roll < rates.lost_before + rates.lost_after {
            ("lost after", Fate::LostAfter)
        } else if watch && roll < rates.lost_before + rates.lost_after + rates.expired {
            ("expired", Fate::Expired)
        } else {
            ("", Fate::Passes)
        };
        if !name.is_empty() {
            *inner.seen.entry(name).or_default() += 1;
        }
        let line = format!("{who} {} {} {name}", request.method(), request.uri());
        inner.trace.push(line);
        (delay, fate)
    }

    /// Whether a watch of `who` ends here.
    fn cuts(&self, who: &str) -> bool {
        let mut inner = self.inner.lock();
        let roll = inner.rng.random_range(0..1000u32);
        let cut = roll < inner.rates.cut || inner.partitioned.contains(who);
        if cut {
            *inner.seen.entry("cut").or_default() += 1;
        }
        cut
    }
}

/// The server that runs at the moment, if one does. A killed server's watches are cut by their owner's scope.
#[derive(Clone, Default)]
pub(crate) struct Switch {
    server: Arc<Mutex<Option<ApiServer>>>,
}

impl Switch {
    pub(crate) fn set(&self, server: Option<ApiServer>) {
        *self.server.lock() = server;
    }

    fn client(&self, user: &UserInfo) -> Result<Client, BoxError> {
        let server = self.server.lock();
        Ok(server.as_ref().ok_or("connection refused: no server runs")?.client(user.clone()))
    }
}

#[derive(Clone)]
struct Faulty {
    who: Arc<str>,
    user: UserInfo,
    switch: Switch,
    faults: Faults,
}

impl Service<Request<Body>> for Faulty {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let (delay, fate) = this.faults.decide(&this.who, &request);
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            match fate {
                Fate::LostBefore => Err("the request was lost".into()),
                Fate::LostAfter => {
                    this.switch.client(&this.user)?.request(request).await?;
                    Err("the answer was lost".into())
                }
                Fate::Expired => Ok(expired()),
                Fate::Passes => {
                    let response = this.switch.client(&this.user)?.request(request).await?;
                    Ok(response.map(|body| Cut { body, who: this.who, faults: this.faults }.boxed_unsync()))
                }
            }
        })
    }
}

fn expired() -> Response<Body> {
    let status = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old resource version","reason":"Expired","code":410}"#;
    let body = http_body_util::Full::new(Bytes::from_static(status.as_bytes())).map_err(|never| match never {});
    let builder = Response::builder().status(410).header("content-type", "application/json");
    builder.body(body.boxed_unsync()).expect("a constant response is right")
}

/// A body that may end early, without its last bytes. A body of one frame (no watch) always arrives whole.
struct Cut {
    body: Body,
    who: Arc<str>,
    faults: Faults,
}

impl http_body::Body for Cut {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_some() && !self.body.is_end_stream() && self.faults.cuts(&self.who) {
            return Poll::Ready(Some(Err("the connection was cut".into())));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}
