//! What a node's counters say about the time between two looks. Pure: the time comes from outside.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

/// Answers within this time are the same.
const FRESH: SignedDuration = SignedDuration::from_secs(5);
/// A look longer ago says nothing of now.
const STALE: SignedDuration = SignedDuration::from_secs(120);
/// Looks closer together say nothing of how fast something is used.
const APART_MS: i64 = 500;

/// One look at a node.
#[derive(Debug, Clone, Default)]
pub(super) struct Sample {
    at: Timestamp,
    node: Counters,
    /// By namespace, pod and container.
    containers: BTreeMap<(String, String, String), Counters>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Counters {
    at_ms: i64,
    cpu_seconds: Option<f64>,
    memory_bytes: Option<u64>,
    started_ms: Option<i64>,
}

/// The last two looks.
#[derive(Debug, Clone, Default)]
pub(super) struct Samples {
    before: Option<Sample>,
    latest: Option<Sample>,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    Enough,
    Now,
    /// There has to be some time between two looks.
    Later,
}

/// What something uses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Usage {
    at_ms: i64,
    window_ms: i64,
    nano_cores: u64,
    memory_bytes: u64,
}

impl Samples {
    pub(super) fn ask(&self, now: Timestamp) -> Ask {
        let age = |sample: &Sample| now.duration_since(sample.at);
        match (&self.before, &self.latest) {
            (Some(_), Some(latest)) if age(latest) < FRESH => Ask::Enough,
            (None, Some(latest)) if age(latest) < FRESH => Ask::Later,
            (_, Some(_) | None) => Ask::Now,
        }
    }

    pub(super) fn add(&mut self, sample: Sample) {
        self.before = self.latest.take().filter(|latest| sample.at.duration_since(latest.at) < STALE);
        self.latest = Some(sample);
    }

    pub(super) fn node(&self) -> Option<Usage> {
        usage(self.latest.as_ref()?.node, self.before.as_ref().map(|before| before.node))
    }

    /// The pod's containers by name; none if one of them is not known well enough.
    pub(super) fn pod(&self, namespace: &str, pod: &str) -> Vec<(&str, Usage)> {
        let Some(latest) = &self.latest else { return Vec::new() };
        let of_it = latest.containers.iter().filter(|((ns, name, _), _)| ns == namespace && name == pod);
        let all = of_it.map(|(key, now)| {
            let before = self.before.as_ref().and_then(|before| before.containers.get(key)).copied();
            Some((key.2.as_str(), usage(*now, before)?))
        });
        all.collect::<Option<Vec<_>>>().unwrap_or_default()
    }
}

/// Since the last look; since its start for what was started after that.
fn usage(now: Counters, before: Option<Counters>) -> Option<Usage> {
    let restarted = |before: &Counters| {
        now.cpu_seconds < before.cpu_seconds || now.started_ms.is_some_and(|started| started > before.at_ms)
    };
    let since_start = now.started_ms.map(|at_ms| Counters { at_ms, cpu_seconds: Some(0.0), ..Counters::default() });
    let base = before.filter(|before| !restarted(before)).or(since_start)?;
    let window_ms = now.at_ms - base.at_ms;
    if window_ms < APART_MS {
        return None;
    }
    let used = (now.cpu_seconds? - base.cpu_seconds?).max(0.0);
    let nano_cores = used * 1e12 / window_ms as f64;
    Some(Usage { at_ms: now.at_ms, window_ms, nano_cores: nano_cores as u64, memory_bytes: now.memory_bytes? })
}

impl Usage {
    pub(super) fn at_text(&self) -> String {
        seconds(Timestamp::from_millisecond(self.at_ms).unwrap_or_default())
    }

    /// As Go writes a duration.
    pub(super) fn window_text(&self) -> String {
        let (minutes, ms) = (self.window_ms / 60_000, self.window_ms % 60_000);
        let mut rest = format!("{}.{:03}", ms / 1000, ms % 1000);
        rest.truncate(rest.trim_end_matches('0').trim_end_matches('.').len());
        match (minutes / 60, minutes % 60) {
            (0, 0) => format!("{rest}s"),
            (0, minutes) => format!("{minutes}m{rest}s"),
            (hours, minutes) => format!("{hours}h{minutes}m{rest}s"),
        }
    }

    pub(super) fn resources(&self) -> Value {
        let memory = match self.memory_bytes {
            bytes if bytes > 0 && bytes % 1024 == 0 => format!("{}Ki", bytes / 1024),
            bytes => bytes.to_string(),
        };
        let cpu = if self.nano_cores == 0 { "0".to_owned() } else { format!("{}n", self.nano_cores) };
        json!({ "cpu": cpu, "memory": memory })
    }
}

/// RFC 3339 to the second, as Kubernetes writes times.
pub(super) fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl Sample {
    /// From a node's `/metrics/resource`. Lines that are not understood are other metrics.
    pub(super) fn parse(text: &str, now: Timestamp) -> Sample {
        let mut sample = Sample { at: now, ..Sample::default() };
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some(line) = Line::parse(line) else { continue };
            let at_ms = line.at_ms.unwrap_or_else(|| now.as_millisecond());
            let counters = match (line.label("namespace"), line.label("pod"), line.label("container")) {
                (Some(namespace), Some(pod), Some(container)) => {
                    sample.containers.entry((namespace, pod, container)).or_default()
                }
                (None, None, None) => &mut sample.node,
                (_, _, _) => continue,
            };
            match line.name {
                "container_cpu_usage_seconds_total" | "node_cpu_usage_seconds_total" => {
                    counters.at_ms = at_ms;
                    counters.cpu_seconds = Some(line.value);
                }
                "container_memory_working_set_bytes" | "node_memory_working_set_bytes" => {
                    counters.memory_bytes = Some(line.value as u64);
                }
                "container_start_time_seconds" => counters.started_ms = Some((line.value * 1000.0) as i64),
                _other => {}
            }
        }
        sample
    }
}

/// `name{key="value",…} number time`.
struct Line<'a> {
    name: &'a str,
    labels: &'a str,
    value: f64,
    at_ms: Option<i64>,
}

impl Line<'_> {
    fn parse(line: &str) -> Option<Line<'_>> {
        let (name, labels, rest) = match line.split_once('{') {
            Some((name, rest)) => {
                // Names of pods and containers have neither quotes nor braces.
                let (labels, rest) = rest.split_once('}')?;
                (name, labels, rest)
            }
            None => {
                let (name, rest) = line.split_once(' ')?;
                (name, "", rest)
            }
        };
        let mut words = rest.split_whitespace();
        let value = words.next()?.parse().ok()?;
        Some(Line { name, labels, value, at_ms: words.next().and_then(|at| at.parse().ok()) })
    }

    fn label(&self, key: &str) -> Option<String> {
        self.labels.split(',').find_map(|label| {
            let (name, value) = label.split_once('=')?;
            (name.trim() == key).then(|| value.trim_matches('"').to_owned())
        })
    }
}
