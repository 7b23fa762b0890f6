//! A server for this crate's tests that answers by a script and writes down what it was asked.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt as _;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::sleep};

use crate::{Body, BoxError, Client};

/// An answer: text of one step a line.
///
/// ```text
///   + NAME RV [UID]   ADDED        ~ NAME RV   MODIFIED     - NAME RV   DELETED
///   end RV            the bookmark that ends the initial events
///   mark RV           a bookmark
///   error CODE REASON an ERROR event           status CODE REASON   a failed request (alone)
///   half              the next step's first half only
///   bytes N           from here on in chunks of N bytes
///   wait SECONDS      cut (an error of the body)      hang (for ever)
/// ```
/// After the last step the body ends.
#[derive(Clone)]
pub(crate) struct Script {
    inner: Arc<Inner>,
}

/// Lines for the log.
type Note = Box<dyn FnMut() -> Vec<String> + Send>;

struct Inner {
    answers: Mutex<VecDeque<Vec<String>>>,
    log: Mutex<Vec<String>>,
    /// Called before each request is written down.
    before: Mutex<Option<Note>>,
    done: Notify,
}

impl Script {
    /// Answers are separated by lines of `---`. Requests beyond them hang.
    pub(crate) fn new(text: &str) -> Self {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let mut answers = VecDeque::from([Vec::new()]);
        for line in lines {
            match line {
                "---" => answers.push_back(Vec::new()),
                line => answers.back_mut().unwrap().push(line.to_owned()),
            }
        }
        let inner = Inner {
            answers: Mutex::new(answers),
            log: Mutex::default(),
            before: Mutex::default(),
            done: Notify::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    pub(crate) fn client(&self) -> Client {
        let script = self.clone();
        Client::new(tower::service_fn(move |request: Request<Body>| {
            let script = script.clone();
            async move { Ok::<_, Infallible>(script.answer(request).await) }
        }))
    }

    pub(crate) fn before_each_request(&self, note: impl FnMut() -> Vec<String> + Send + 'static) {
        *self.inner.before.lock() = Some(Box::new(note));
    }

    /// Waits until a request came for which the script has no answer.
    pub(crate) async fn played(&self) {
        self.inner.done.notified().await;
    }

    pub(crate) fn log(&self) -> String {
        self.inner.log.lock().join("\n") + "\n"
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let line = describe(request).await;
        {
            let mut before = self.inner.before.lock();
            let notes = before.as_mut().map(|note| note()).unwrap_or_default();
            let mut log = self.inner.log.lock();
            log.extend(notes);
            log.push(line);
        }
        let next = self.inner.answers.lock().pop_front();
        let Some(steps) = next else {
            self.inner.done.notify_one();
            return std::future::pending().await;
        };
        respond(steps)
    }
}

async fn describe(request: Request<Body>) -> String {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let query = head.uri.query().unwrap_or_default();
    // What every watch of an informer says is left out.
    let told: Vec<_> = query
        .split('&')
        .filter(|part| !matches!(*part, "" | "allowWatchBookmarks=true" | "resourceVersionMatch=NotOlderThan"))
        .collect();
    let path = [head.uri.path(), &told.join("&")].join(" ").trim_end().to_owned();
    let body = String::from_utf8(body.to_vec()).unwrap();
    format!("{} {path} {body}", head.method).trim_end().to_owned()
}

fn respond(steps: Vec<String>) -> Response<Body> {
    if let Some(rest) = steps.first().and_then(|step| step.strip_prefix("status ")) {
        let (code, reason) = rest.split_once(' ').unwrap();
        let body = crate::full_body(status(code, reason));
        return Response::builder().status(code.parse::<u16>().unwrap()).body(body).unwrap();
    }
    if let Some(json) = steps.first().and_then(|step| step.strip_prefix("json ")) {
        return Response::new(crate::full_body(json.to_owned()));
    }
    let mut size = usize::MAX;
    let mut half = false;
    let mut frames: Vec<Play> = Vec::new();
    for step in steps {
        let words: Vec<_> = step.split(' ').collect();
        let line = match words[..] {
            ["bytes", n] => {
                size = n.parse().unwrap();
                continue;
            }
            ["half"] => {
                half = true;
                continue;
            }
            ["wait", seconds] => {
                frames.push(Play::Wait(seconds.parse().unwrap()));
                continue;
            }
            ["cut"] => {
                frames.push(Play::Cut);
                continue;
            }
            ["hang"] => {
                frames.push(Play::Hang);
                continue;
            }
            ["+", name, rv] => event("ADDED", name, rv, "u"),
            ["+", name, rv, uid] => event("ADDED", name, rv, uid),
            ["~", name, rv] => event("MODIFIED", name, rv, "u"),
            ["-", name, rv] => event("DELETED", name, rv, "u"),
            ["end", rv] => bookmark(rv, r#","annotations":{"k8s.io/initial-events-end":"true"}"#),
            ["mark", rv] => bookmark(rv, ""),
            ["error", code, reason] => format!(r#"{{"type":"ERROR","object":{}}}"#, status(code, reason)),
            _ => step.strip_prefix("line").expect("a known step").trim_start().to_owned(),
        };
        let mut bytes = format!("{line}\n").into_bytes();
        if std::mem::take(&mut half) {
            bytes.truncate(bytes.len() / 2);
        }
        frames.extend(bytes.chunks(size.min(bytes.len())).map(|chunk| Play::Data(Bytes::copy_from_slice(chunk))));
    }
    let stream = futures::stream::iter(frames).then(|play| async {
        match play {
            Play::Data(bytes) => Ok(Frame::data(bytes)),
            Play::Wait(seconds) => {
                sleep(Duration::from_secs(seconds)).await;
                Ok(Frame::data(Bytes::new()))
            }
            Play::Cut => Err(BoxError::from("connection reset")),
            Play::Hang => std::future::pending().await,
        }
    });
    Response::new(StreamBody::new(stream).boxed_unsync())
}

enum Play {
    Data(Bytes),
    Wait(u64),
    Cut,
    Hang,
}

fn event(kind: &str, name: &str, rv: &str, uid: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    format!(
        r#"{{"type":"{kind}","object":{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"namespace":"{namespace}","name":"{name}","resourceVersion":"{rv}","uid":"{uid}","managedFields":[{{"manager":"m"}}]}},"data":{{"rv":"{rv}"}}}}}}"#
    )
}

fn bookmark(rv: &str, more: &str) -> String {
    format!(
        r#"{{"type":"BOOKMARK","object":{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"resourceVersion":"{rv}"{more}}}}}}}"#
    )
}

fn status(code: &str, reason: &str) -> String {
    let causes =
        if reason == "Timeout" { r#","details":{"causes":[{"reason":"ResourceVersionTooLarge"}]}"# } else { "" };
    format!(
        r#"{{"kind":"Status","apiVersion":"v1","metadata":{{}},"status":"Failure","message":"no","reason":"{reason}"{causes},"code":{code}}}"#
    )
}
