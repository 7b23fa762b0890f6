//! Counts and times of requests, in Prometheus' text form under upstream's names.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::request_info::{RequestInfo, Verb};

const BUCKETS_MS: [u64; 10] = [1, 5, 10, 25, 50, 100, 250, 1_000, 5_000, 60_000];

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Series {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
}

#[derive(Debug, Default)]
struct Measured {
    codes: BTreeMap<u16, u64>,
    buckets: [u64; BUCKETS_MS.len()],
    total: u64,
    sum: Duration,
}

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    series: Mutex<BTreeMap<Series, Measured>>,
    pub(crate) in_flight: AtomicI64,
    pub(crate) watches: AtomicI64,
    pub(crate) panics: AtomicU64,
}

impl Metrics {
    /// Counts a finished request. `known`: the resource and subresource exist, so their names may become labels (a client's free choice
    /// may not, or it could fill the memory).
    pub(crate) fn record(&self, info: Option<&RequestInfo>, known: bool, code: u16, took: Duration) {
        let text = |value: &str| if known { value.to_owned() } else { String::new() };
        let series = match info {
            Some(info) if info.is_resource => Series {
                verb: upper(info.verb),
                group: text(&info.group),
                version: text(&info.version),
                resource: text(&info.resource),
                subresource: text(&info.subresource),
            },
            Some(_) | None => Series {
                verb: "OTHER",
                group: String::new(),
                version: String::new(),
                resource: String::new(),
                subresource: String::new(),
            },
        };
        let mut all = self.series.lock();
        let measured = all.entry(series).or_default();
        *measured.codes.entry(code).or_default() += 1;
        measured.total += 1;
        measured.sum += took;
        for (bucket, limit) in measured.buckets.iter_mut().zip(BUCKETS_MS) {
            if took <= Duration::from_millis(limit) {
                *bucket += 1;
            }
        }
    }

    /// The exposition text; `revision` and `objects` come from the store.
    pub(crate) fn render(&self, revision: u64, objects: &[(String, usize)]) -> String {
        let mut out = String::new();
        self.render_requests(&mut out).expect("writing into a String cannot fail");
        let mut gauge = |name: &str, help: &str, value: i64| {
            write!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n")
                .expect("writing into a String cannot fail");
        };
        gauge("apiserver_current_inflight_requests", "Requests under way.", self.in_flight.load(Ordering::Relaxed));
        gauge("apiserver_registered_watchers", "Watches under way.", self.watches.load(Ordering::Relaxed));
        gauge(
            "apiserver_request_panics_total",
            "Requests whose handler panicked.",
            i64::try_from(self.panics.load(Ordering::Relaxed)).unwrap_or(i64::MAX),
        );
        gauge("coracle_store_revision", "The newest revision.", i64::try_from(revision).unwrap_or(i64::MAX));
        out.push_str("# HELP apiserver_storage_objects Objects by resource.\n# TYPE apiserver_storage_objects gauge\n");
        for (resource, count) in objects {
            writeln!(out, "apiserver_storage_objects{{resource=\"{resource}\"}} {count}")
                .expect("writing into a String cannot fail");
        }
        out
    }

    fn render_requests(&self, out: &mut String) -> std::fmt::Result {
        let all = self.series.lock();
        out.push_str("# HELP apiserver_request_total Requests by verb, resource and code.\n");
        out.push_str("# TYPE apiserver_request_total counter\n");
        for (series, measured) in all.iter() {
            for (code, count) in &measured.codes {
                writeln!(out, "apiserver_request_total{{{},code=\"{code}\"}} {count}", labels(series))?;
            }
        }
        out.push_str("# HELP apiserver_request_duration_seconds Time until the answer's head.\n");
        out.push_str("# TYPE apiserver_request_duration_seconds histogram\n");
        for (series, measured) in all.iter() {
            let labels = labels(series);
            for (count, limit) in measured.buckets.iter().zip(BUCKETS_MS) {
                let le = limit as f64 / 1000.0;
                writeln!(out, "apiserver_request_duration_seconds_bucket{{{labels},le=\"{le}\"}} {count}")?;
            }
            writeln!(out, "apiserver_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} {}", measured.total)?;
            writeln!(out, "apiserver_request_duration_seconds_sum{{{labels}}} {}", measured.sum.as_secs_f64())?;
            writeln!(out, "apiserver_request_duration_seconds_count{{{labels}}} {}", measured.total)?;
        }
        Ok(())
    }
}

fn labels(series: &Series) -> String {
    let Series { verb, group, version, resource, subresource } = series;
    format!(
        "verb=\"{verb}\",group=\"{group}\",version=\"{version}\",resource=\"{resource}\",subresource=\"{subresource}\""
    )
}

fn upper(verb: Verb) -> &'static str {
    match verb {
        Verb::Get => "GET",
        Verb::List => "LIST",
        Verb::Watch => "WATCH",
        Verb::Create => "POST",
        Verb::Update => "PUT",
        Verb::Patch => "PATCH",
        Verb::Delete => "DELETE",
        Verb::DeleteCollection => "DELETECOLLECTION",
        Verb::Proxy => "PROXY",
        Verb::Unknown => "OTHER",
    }
}
