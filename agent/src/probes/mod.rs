//! Probes of containers: is it up, is it alive, is it ready.
//!
//! Owns the rhythm, the thresholds and the wording. One task per probe; it tells the pod's mailbox when the verdict
//! changes. Must not know: what follows from a verdict.

mod grpc;
mod host;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::events::{EventType, Recorder};
use coracle_cri::Code;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, ObjectReference, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::time::{Instant, sleep_until, timeout};

pub use host::HostProber;

use crate::mailbox::{Mailbox, Verdict};
use crate::pod::backoff::go_duration;
use crate::pod::machine::ProbeKind;
use crate::runtime::Runtime;

/// One thing to try on a pod, ready to be tried.
#[derive(Clone, Debug, PartialEq)]
pub enum Check {
    Http(HttpCheck),
    Tcp {
        host: String,
        port: u16,
    },
    Grpc {
        host: String,
        port: u16,
        service: String,
    },
    /// In the container, through its runtime.
    Exec {
        command: Vec<String>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct HttpCheck {
    /// `http` or `https`; the certificate is not checked.
    pub scheme: String,
    pub host: String,
    pub port: u16,
    /// Path and query.
    pub path: String,
    pub headers: BTreeMap<String, String>,
}

impl HttpCheck {
    pub fn url(&self) -> String {
        format!("{}://{}:{}{}", self.scheme, self.host, self.port, self.path)
    }
}

/// Tries until one can be made.
const TRIES: usize = 3;
/// Of a command's output this much is told.
const OUTPUT_CHARS: usize = 10 * 1024;

/// Why a try was no success.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Fault {
    #[error("failed: {0}")]
    Failed(String),
    /// It could not be tried: its command is not there, its port has no number.
    #[error("errored and resulted in unknown state: {0}")]
    Errored(String),
}

/// What came of a try: `Err` is the failure in kubelet's words.
pub type Outcome = Result<(), String>;

/// Reaches pods over the network. Whoever calls sets the deadline.
pub trait Prober: Send + Sync + 'static {
    fn try_once<'a>(&'a self, check: &'a Check) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;
}

/// A prober for simulations without sockets: every network probe succeeds.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProber;

impl Prober for NoProber {
    fn try_once<'a>(&'a self, _check: &'a Check) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'a>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// How often a probe tries, and how often in a row one outcome has to come before it counts.
#[derive(Clone, Copy, Debug)]
pub struct Rhythm {
    delay: Duration,
    period: Duration,
    limit: Duration,
    failures_max: u32,
    successes_min: u32,
    /// What a container that is killed for this probe has to end by itself, if the probe says so.
    grace: Option<Duration>,
}

impl Rhythm {
    pub fn of(probe: &Probe) -> Rhythm {
        let seconds = |field: Option<i32>, default: u64| {
            Duration::from_secs(field.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(default))
        };
        let threshold = |field: Option<i32>, default: u32| {
            field.and_then(|count| u32::try_from(count).ok()).filter(|count| *count > 0).unwrap_or(default)
        };
        let grace = probe.termination_grace_period_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        Rhythm {
            delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds.filter(|period| *period > 0), 10),
            limit: seconds(probe.timeout_seconds.filter(|limit| *limit > 0), 1),
            failures_max: threshold(probe.failure_threshold, 3),
            successes_min: threshold(probe.success_threshold, 1),
            grace: grace.map(Duration::from_secs),
        }
    }
}

/// Everything the task of one probe needs.
pub struct ProbeTask {
    pub kind: ProbeKind,
    pub rhythm: Rhythm,
    pub check: Result<Check, String>,
    pub container: Arc<str>,
    pub container_id: Arc<str>,
    pub runtime: Arc<Runtime>,
    pub prober: Arc<dyn Prober>,
    pub mailbox: Arc<Mailbox>,
    pub recorder: Recorder,
    /// The container in its pod.
    pub reference: ObjectReference,
}

impl ProbeTask {
    /// Probes until the verdict is final: a startup probe ends with its first success, and a failed startup or liveness
    /// probe ends because the container is killed for it.
    pub async fn run(&self) {
        let Rhythm { delay, period, limit, failures_max, successes_min, grace: _ } = self.rhythm;
        // What was said before, perhaps by an earlier agent, may be another thing: the first verdict is always told, but
        // for that of liveness, which kubelet takes for granted.
        let mut healthy = (self.kind == ProbeKind::Liveness).then_some(true);
        let (mut run, mut last) = (0, None);
        let mut next = Instant::now() + delay;
        loop {
            sleep_until(next).await;
            next = Instant::now() + period;
            // Between two tries, which is nearly always, the task of a probe is small.
            let outcome = Box::pin(self.try_a_few_times(limit)).await;
            if let Err(fault) = &outcome {
                let text = format!("{} probe {fault}", self.kind);
                self.recorder.event(&self.reference, EventType::Warning, "Unhealthy", text);
            }
            let ok = match outcome {
                Ok(()) => true,
                Err(Fault::Failed(_)) => false,
                // Nothing was learnt of the container: it stays what it was taken for.
                Err(Fault::Errored(_)) => continue,
            };
            run = if last == Some(ok) { run + 1 } else { 1 };
            last = Some(ok);
            let decided = if ok { run >= successes_min } else { run >= failures_max };
            if !decided {
                continue;
            }
            let fatal = !ok && self.kind != ProbeKind::Readiness;
            if healthy != Some(ok) || fatal {
                healthy = Some(ok);
                self.tell(ok);
            }
            if fatal || (ok && self.kind == ProbeKind::Startup) {
                return;
            }
        }
    }

    fn tell(&self, healthy: bool) {
        let verdict = Verdict { id: self.container_id.clone(), healthy, grace: self.rhythm.grace };
        let key = (self.container.clone(), self.kind);
        self.mailbox.put(|mail| drop(mail.verdicts.insert(key, verdict)));
    }

    /// A try that could not be made is made again at once.
    async fn try_a_few_times(&self, limit: Duration) -> Result<(), Fault> {
        for _ in 1..TRIES {
            match self.try_once(limit).await {
                Err(Fault::Errored(_)) => {}
                other => return other,
            }
        }
        self.try_once(limit).await
    }

    async fn try_once(&self, limit: Duration) -> Result<(), Fault> {
        match self.check.as_ref().map_err(|why| Fault::Errored(why.clone()))? {
            Check::Exec { command } => self.exec(command, limit).await,
            check => match timeout(limit, self.prober.try_once(check)).await {
                Ok(outcome) => outcome.map_err(Fault::Failed),
                Err(_) => Err(Fault::Failed(timed_out(check, limit))),
            },
        }
    }

    async fn exec(&self, command: &[String], limit: Duration) -> Result<(), Fault> {
        let late = || format!("command timed out: \"{}\" timed out after {}", command.join(" "), go_duration(limit));
        match timeout(limit, self.runtime.exec_sync(&self.container_id, command, limit)).await {
            Ok(Ok(done)) if done.exit_code == 0 => Ok(()),
            Ok(Ok(done)) => {
                let output = [done.stdout, done.stderr].concat();
                Err(Fault::Failed(String::from_utf8_lossy(&output).chars().take(OUTPUT_CHARS).collect()))
            }
            Ok(Err(error)) if error.code == Code::DeadlineExceeded => Err(Fault::Failed(late())),
            Ok(Err(error)) => Err(Fault::Errored(error.to_string())),
            Err(_) => Err(Fault::Failed(late())),
        }
    }
}

fn timed_out(check: &Check, limit: Duration) -> String {
    match check {
        Check::Http(http) => {
            format!(
                "Get \"{}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
                http.url()
            )
        }
        Check::Tcp { host, port } => format!("dial tcp {host}:{port}: i/o timeout"),
        Check::Grpc { host, port, .. } => {
            format!("timeout: failed to connect service \"{host}:{port}\" within {}", go_duration(limit))
        }
        Check::Exec { command } => format!("command \"{}\" timed out after {}", command.join(" "), go_duration(limit)),
    }
}

/// What a probe tries, with the container's ports and the pod's address filled in.
pub fn check_of(probe: &Probe, container: &Container, pod_ip: Option<IpAddr>) -> Result<Check, String> {
    let host = || pod_ip.map(host_text).ok_or_else(|| "the pod has no address".to_owned());
    if let Some(exec) = &probe.exec {
        return Ok(Check::Exec { command: exec.command.clone().unwrap_or_default() });
    }
    if let Some(http) = &probe.http_get {
        return http_check(http, container, pod_ip).map(Check::Http);
    }
    if let Some(tcp) = &probe.tcp_socket {
        let host = match tcp.host.clone().filter(|host| !host.is_empty()) {
            Some(own) => own,
            None => host()?,
        };
        return Ok(Check::Tcp { host, port: port(&tcp.port, container)? });
    }
    if let Some(grpc) = &probe.grpc {
        let port = u16::try_from(grpc.port).map_err(|_| format!("invalid port number: {}", grpc.port))?;
        return Ok(Check::Grpc { host: host()?, port, service: grpc.service.clone().unwrap_or_default() });
    }
    Err("missing probe handler".to_owned())
}

/// Also for hooks, which are HTTP requests of the same form.
pub fn http_check(http: &HTTPGetAction, container: &Container, pod_ip: Option<IpAddr>) -> Result<HttpCheck, String> {
    let host = match http.host.clone().filter(|host| !host.is_empty()) {
        Some(own) => own,
        None => pod_ip.map(host_text).ok_or("the pod has no address")?,
    };
    let path = http.path.clone().unwrap_or_default();
    Ok(HttpCheck {
        scheme: http.scheme.as_deref().unwrap_or("HTTP").to_lowercase(),
        host,
        port: port(&http.port, container)?,
        path: if path.starts_with('/') { path } else { format!("/{path}") },
        headers: http.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect(),
    })
}

fn host_text(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_deref() == Some(name));
            match (named, name.parse::<i32>()) {
                (Some(port), _) => port.container_port,
                (None, Ok(number)) => number,
                (None, Err(_)) => return Err(format!("couldn't find port: {name:?} in pod")),
            }
        }
    };
    u16::try_from(number).ok().filter(|port| *port > 0).ok_or_else(|| format!("invalid port number: {number}"))
}
