//! Answers as text: status, the headers that matter, the body as YAML or the fields that were asked for.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use serde_json::Value;

/// Headers of answers that tell something. `content-type` is shown where it is not plain JSON.
const HEADERS: [&str; 6] = ["warning", "retry-after", "location", "allow", "www-authenticate", "content-encoding"];

/// The first line, and what of the headers is shown. A refusal's line also has its reason.
pub(crate) fn head(code: u16, headers: &HeaderMap, parsed: Option<&Value>) -> String {
    let reason = parsed.filter(|value| is_refusal(value)).and_then(|value| value["reason"].as_str());
    let mut out = reason.map_or_else(|| format!("{code}\n"), |reason| format!("{code} {reason}\n"));
    let shown = |name: &str| {
        let values = headers.get_all(name).iter();
        values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect::<Vec<_>>()
    };
    for value in shown("content-type").iter().filter(|value| *value != "application/json") {
        writeln!(out, "Content-Type: {value}").expect("into a String");
    }
    for name in HEADERS {
        for value in shown(name) {
            writeln!(out, "{}: {value}", title(name)).expect("into a String");
        }
    }
    out
}

fn title(name: &str) -> String {
    let part = |part: &str| part[..1].to_uppercase() + &part[1..];
    name.split('-').map(part).collect::<Vec<_>>().join("-")
}

/// The body, or the fields of it that were asked for, each on a line of its own.
pub(crate) fn body(code: u16, bytes: &[u8], parsed: Option<&Value>, shown: &[String]) -> String {
    let parsed = parsed.filter(|_| shown != ["raw"]);
    let Some(value) = parsed else {
        let text = String::from_utf8_lossy(bytes);
        return if text.is_empty() || text.ends_with('\n') { text.into_owned() } else { format!("{text}\n") };
    };
    if is_refusal(value) && (value["code"].as_u64() == Some(code.into())) {
        return refusal(value);
    }
    let mut value = value.clone();
    open_tokens(&mut value);
    if shown.is_empty() {
        return serde_norway::to_string(&value).expect("a JSON tree becomes YAML");
    }
    let line = |name: &String| match field(&value, name) {
        Some(value) => format!("{name}: {value}\n"),
        None => format!("{name}: -\n"),
    };
    shown.iter().map(line).collect()
}

/// A Status that says no, with nothing in its envelope that is not always there.
fn is_refusal(value: &Value) -> bool {
    let metadata = value["metadata"].as_object();
    value["kind"] == "Status"
        && value["apiVersion"] == "v1"
        && value["status"] == "Failure"
        && metadata.is_some_and(serde_json::Map::is_empty)
}

/// The message, who is meant, and the causes; not the message where it only strings the causes together.
fn refusal(status: &Value) -> String {
    let message = status["message"].as_str().unwrap_or_default();
    let mut details = status["details"].clone();
    let mut causes: Vec<String> = Vec::new();
    let mut told: Vec<String> = Vec::new();
    if let Some(Value::Array(list)) = details.as_object_mut().and_then(|details| details.remove("causes")) {
        for cause in &list {
            let text = |field: &str| cause[field].as_str().unwrap_or_default();
            told.push(format!("{}: {}", text("field"), text("message")));
            causes.push(format!("- {} {}: {}\n", text("reason"), text("field"), text("message")));
        }
    }
    let told = if told.len() == 1 { told.concat() } else { format!("[{}]", told.join(", ")) };
    let mut out = match message.strip_suffix(&told) {
        Some(head) if !causes.is_empty() => format!("{head}…\n"),
        Some(_) | None => format!("{message}\n"),
    };
    if details.as_object().is_some_and(|details| !details.is_empty()) {
        writeln!(out, "{details}").expect("into a String");
    }
    out + &causes.concat()
}

/// A field by a path such as `items.0.metadata.name` or, over a list, `items.*.metadata.name`. A dot in a key is `\.`.
pub(crate) fn field(value: &Value, path: &str) -> Option<Value> {
    let path = path.replace("\\.", "\u{0}");
    let parts: Vec<String> = path.split('.').map(|part| part.replace('\u{0}', ".")).collect();
    at(value, &parts)
}

fn at(value: &Value, parts: &[String]) -> Option<Value> {
    let Some((first, rest)) = parts.split_first() else { return Some(value.clone()) };
    match value {
        Value::Array(list) if first == "*" => {
            Some(list.iter().map(|value| at(value, rest).unwrap_or_default()).collect())
        }
        Value::Array(list) if first == "#" => Some(list.len().into()),
        Value::Array(list) => at(list.get(first.parse::<usize>().ok()?)?, rest),
        Value::Object(map) if first == "#" => Some(map.keys().cloned().collect()),
        Value::Object(map) => at(map.get(first)?, rest),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

/// The frames of a watch, one a line.
pub(crate) fn event(line: &[u8], shown: &[String]) -> String {
    let mut event: Value = serde_json::from_slice(line).unwrap_or_else(|error| panic!("{error} in a frame"));
    open_tokens(&mut event);
    let kind = event["type"].as_str().unwrap_or_default();
    let object = &event["object"];
    if shown.is_empty() || kind == "ERROR" {
        return format!("{kind} {object}\n");
    }
    let fields: Vec<String> =
        shown.iter().map(|name| format!("{name}: {}", field(object, name).unwrap_or_default())).collect();
    format!("{kind} {}\n", fields.join(", "))
}

/// A signed token differs in each run by its signature: its claims are shown in its place.
fn open_tokens(value: &mut Value) {
    match value {
        Value::String(text) => {
            let claims = text.split('.').nth(1).filter(|_| text.starts_with("ey") && text.split('.').count() == 3);
            let claims = claims.and_then(|claims| URL_SAFE_NO_PAD.decode(claims).ok());
            if let Some(claims) = claims.and_then(|claims| serde_json::from_slice::<Value>(&claims).ok()) {
                *value = serde_json::json!({ "signed": claims });
            }
        }
        Value::Array(list) => list.iter_mut().for_each(open_tokens),
        Value::Object(map) => map.values_mut().for_each(open_tokens),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
