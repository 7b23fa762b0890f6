//! Between the version a client speaks and the one that is stored. Most versions of a resource share their schema: then
//! only the header differs and bytes are spliced. Events (core/v1 and events.k8s.io/v1) and HorizontalPodAutoscalers
//! (v1 and v2) have real conversions.

use std::borrow::Cow;

use bytes::Bytes;
use coracle_api::object::Object;
use coracle_api::schema::ResourceDef;
use coracle_api::status::Status;
use serde_json::{Map, Value, json};

use super::catalog::Resource;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conversion {
    /// Served as stored.
    Same,
    /// The same fields under another apiVersion.
    Header,
    /// events.k8s.io/v1 served, core/v1 stored.
    Event,
    /// autoscaling/v1 served, autoscaling/v2 stored.
    Autoscaler,
}

/// The fields that differ: (events.k8s.io/v1, core/v1).
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

/// What autoscaling/v1 has no field for lies in annotations, as upstream does it: (annotation, path in v2).
const AUTOSCALER_ANNOTATIONS: [(&str, &[&str]); 4] = [
    ("autoscaling.alpha.kubernetes.io/metrics", &["spec", "metrics"]),
    ("autoscaling.alpha.kubernetes.io/behavior", &["spec", "behavior"]),
    ("autoscaling.alpha.kubernetes.io/current-metrics", &["status", "currentMetrics"]),
    ("autoscaling.alpha.kubernetes.io/conditions", &["status", "conditions"]),
];

impl Conversion {
    pub fn between(served: &ResourceDef, stored: &ResourceDef) -> Self {
        if served.group == stored.group && served.version == stored.version {
            return Self::Same;
        }
        match (&*served.group, &*served.plural, &*served.version) {
            ("events.k8s.io", "events", _) => Self::Event,
            ("autoscaling", "horizontalpodautoscalers", "v1") => Self::Autoscaler,
            _ => Self::Header,
        }
    }

    /// The name under which a selectable field of the served version is stored.
    pub fn stored_field(self, field: &str) -> Cow<'_, str> {
        match self {
            Self::Same | Self::Header | Self::Autoscaler => Cow::Borrowed(field),
            Self::Event => {
                let (head, tail) = field.split_at(field.find('.').unwrap_or(field.len()));
                match EVENT_FIELDS.iter().find(|(served, _)| *served == head) {
                    Some((_, stored)) => Cow::Owned(format!("{stored}{tail}")),
                    None => Cow::Borrowed(field),
                }
            }
        }
    }

    pub fn to_stored(self, resource: &Resource, mut object: Object) -> Object {
        match self {
            Self::Same => return object,
            Self::Header => {}
            Self::Event => rename(&mut object, EVENT_FIELDS.iter().copied()),
            Self::Autoscaler => autoscaler_to_stored(&mut object),
        }
        object.set_gvk(&resource.stored.gvk());
        object
    }

    pub fn to_served(self, resource: &Resource, mut object: Object) -> Object {
        match self {
            Self::Same => return object,
            Self::Header => {}
            Self::Event => rename(&mut object, EVENT_FIELDS.iter().map(|(served, stored)| (*stored, *served))),
            Self::Autoscaler => autoscaler_to_served(&mut object),
        }
        object.set_gvk(&resource.def.gvk());
        object
    }

    /// Whether the stored bytes behind the header are also the served ones.
    pub fn shares_bytes(self) -> bool {
        match self {
            Self::Same | Self::Header => true,
            Self::Event | Self::Autoscaler => false,
        }
    }

    /// The whole object as it is served.
    pub fn served_json(self, resource: &Resource, stored: &Bytes) -> Result<Bytes, Status> {
        match self {
            Self::Same => Ok(stored.clone()),
            Self::Header => Ok([resource.served_header.bytes(), resource.header.body(stored)].concat().into()),
            Self::Event | Self::Autoscaler => {
                let object: Object = serde_json::from_slice(stored)
                    .map_err(|error| Status::internal(format!("a stored object cannot be read: {error}")))?;
                Ok(resource.served_header.encode_whole(&self.to_served(resource, object)))
            }
        }
    }
}

fn rename(object: &mut Object, names: impl Iterator<Item = (&'static str, &'static str)>) {
    for (from, to) in names {
        if let Some(value) = object.remove(&[from]) {
            object.set(&[to], value);
        }
    }
}

/// The position of the metric that v1 knows: a utilisation of the pods' CPU.
fn cpu_utilisation(metrics: &[Value], inner: &str) -> Option<(usize, i64)> {
    metrics.iter().enumerate().find_map(|(at, metric)| {
        let metric = Object::from_value(metric.clone()).ok()?;
        let is_cpu = metric.field(&["type"]) == Some("Resource") && metric.field(&["resource", "name"]) == Some("cpu");
        let value = metric.int(&["resource", inner, "averageUtilization"])?;
        is_cpu.then_some((at, value))
    })
}

fn autoscaler_to_served(object: &mut Object) {
    let kinds = [
        ("spec", "metrics", "target", "targetCPUUtilizationPercentage"),
        ("status", "currentMetrics", "current", "currentCPUUtilizationPercentage"),
    ];
    for (part, list, inner, field) in kinds {
        let Some((at, value)) = cpu_utilisation(object.list(&[part, list]), inner) else { continue };
        object.set(&[part, field], value);
        let mut rest = object.list(&[part, list]).to_vec();
        rest.remove(at);
        object.set(&[part, list], rest);
    }
    for (annotation, path) in AUTOSCALER_ANNOTATIONS {
        match object.remove(path) {
            None => {}
            Some(Value::Array(list)) if list.is_empty() => {}
            Some(value) => object.set_annotation(annotation, &value.to_string()),
        }
    }
}

fn autoscaler_to_stored(object: &mut Object) {
    for (annotation, path) in AUTOSCALER_ANNOTATIONS {
        let value = object.annotation(annotation).and_then(|text| serde_json::from_str::<Value>(text).ok());
        object.remove(&["metadata", "annotations", annotation]);
        if let Some(value) = value {
            object.set(path, value);
        }
    }
    if object.path(&["metadata", "annotations"]).is_some_and(|map| map.as_object().is_some_and(Map::is_empty)) {
        object.remove(&["metadata", "annotations"]);
    }
    let kinds = [
        ("spec", "metrics", "target", "targetCPUUtilizationPercentage"),
        ("status", "currentMetrics", "current", "currentCPUUtilizationPercentage"),
    ];
    for (part, list, inner, field) in kinds {
        let Some(value) = object.remove(&[part, field]) else { continue };
        let mut metric = json!({"type": "Resource", "resource": {"name": "cpu", inner: {"averageUtilization": value}}});
        if inner == "target" {
            metric["resource"][inner]["type"] = "Utilization".into();
        }
        let mut all = vec![metric];
        all.extend(object.list(&[part, list]).iter().cloned());
        object.set(&[part, list], all);
    }
}
