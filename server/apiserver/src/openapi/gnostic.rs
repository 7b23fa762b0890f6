//! Owns writing an OpenAPI v2 document as gnostic's protobuf message `openapi.v2.Document`, which kubectl asks for.
//! Descriptors name, for each JSON key, its field; one walk writes any part of the document. Message and field numbers
//! are facts of gnostic's OpenAPIv2.proto.

use serde_json::{Map, Value};

/// How a JSON value becomes a field.
enum Kind {
    Text,
    Bool,
    /// Repeated strings.
    Texts,
    Message(&'static Descriptor),
    Messages(&'static Descriptor),
    /// A message in field 1 of another one.
    Inside(&'static Descriptor),
    /// A map as repeated pairs of name (1) and value (2), in field `.0` of a message of its own.
    Map(u32, &'static Descriptor),
    /// One string or several, in field 1 of a message.
    TypeItem,
    /// A parameter: of the body, of the path or of the query.
    Parameters,
}

struct Descriptor {
    fields: &'static [(&'static str, u32, Kind)],
    /// Where `x-` keys go, if anywhere.
    vendor: Option<u32>,
}

static SCHEMA: Descriptor = Descriptor {
    fields: &[
        ("$ref", 1, Kind::Text),
        ("format", 2, Kind::Text),
        ("description", 4, Kind::Text),
        ("required", 19, Kind::Texts),
        ("additionalProperties", 21, Kind::Inside(&SCHEMA)),
        ("type", 22, Kind::TypeItem),
        ("items", 23, Kind::Inside(&SCHEMA)),
        ("properties", 25, Kind::Map(1, &SCHEMA)),
    ],
    vendor: Some(31),
};
static RESPONSE: Descriptor =
    Descriptor { fields: &[("description", 1, Kind::Text), ("schema", 2, Kind::Inside(&SCHEMA))], vendor: Some(5) };
/// ResponseValue, whose field 1 is the response.
static RESPONSE_VALUE: Descriptor = Descriptor { fields: &[("response", 1, Kind::Message(&RESPONSE))], vendor: None };
static OPERATION: Descriptor = Descriptor {
    fields: &[
        ("tags", 1, Kind::Texts),
        ("description", 3, Kind::Text),
        ("operationId", 5, Kind::Text),
        ("produces", 6, Kind::Texts),
        ("consumes", 7, Kind::Texts),
        ("parameters", 8, Kind::Parameters),
        ("responses", 9, Kind::Map(1, &RESPONSE_VALUE)),
        ("schemes", 10, Kind::Texts),
    ],
    vendor: Some(13),
};
static PATH_ITEM: Descriptor = Descriptor {
    fields: &[
        ("get", 2, Kind::Message(&OPERATION)),
        ("put", 3, Kind::Message(&OPERATION)),
        ("post", 4, Kind::Message(&OPERATION)),
        ("delete", 5, Kind::Message(&OPERATION)),
        ("patch", 8, Kind::Message(&OPERATION)),
        ("parameters", 9, Kind::Parameters),
    ],
    vendor: Some(10),
};
static BODY_PARAMETER: Descriptor = Descriptor {
    fields: &[
        ("description", 1, Kind::Text),
        ("name", 2, Kind::Text),
        ("in", 3, Kind::Text),
        ("required", 4, Kind::Bool),
        ("schema", 5, Kind::Message(&SCHEMA)),
    ],
    vendor: Some(6),
};
static QUERY_PARAMETER: Descriptor = Descriptor {
    fields: &[
        ("required", 1, Kind::Bool),
        ("in", 2, Kind::Text),
        ("description", 3, Kind::Text),
        ("name", 4, Kind::Text),
        ("type", 6, Kind::Text),
        ("uniqueItems", 20, Kind::Bool),
    ],
    vendor: Some(23),
};
static PATH_PARAMETER: Descriptor = Descriptor {
    fields: &[
        ("required", 1, Kind::Bool),
        ("in", 2, Kind::Text),
        ("description", 3, Kind::Text),
        ("name", 4, Kind::Text),
        ("type", 5, Kind::Text),
        ("uniqueItems", 19, Kind::Bool),
    ],
    vendor: Some(22),
};
static INFO: Descriptor =
    Descriptor { fields: &[("title", 1, Kind::Text), ("version", 2, Kind::Text)], vendor: Some(7) };
static TAG: Descriptor = Descriptor { fields: &[("name", 1, Kind::Text)], vendor: Some(4) };
static API_KEY: Descriptor = Descriptor {
    fields: &[("type", 1, Kind::Text), ("name", 2, Kind::Text), ("in", 3, Kind::Text), ("description", 4, Kind::Text)],
    vendor: Some(5),
};
/// SecurityDefinitionsItem, whose field 2 is a key.
static SECURITY: Descriptor = Descriptor { fields: &[("apiKey", 2, Kind::Message(&API_KEY))], vendor: None };
static HEAD: Descriptor = Descriptor {
    fields: &[
        ("swagger", 1, Kind::Text),
        ("info", 2, Kind::Message(&INFO)),
        ("securityDefinitions", 13, Kind::Map(1, &SECURITY)),
        ("tags", 14, Kind::Messages(&TAG)),
    ],
    vendor: Some(16),
};

/// Collects a document part by part, so that no more than one part exists as JSON.
pub(super) struct Document {
    head: Vec<u8>,
    paths: Vec<u8>,
    definitions: Vec<u8>,
}

impl Document {
    /// `head` is all but paths and definitions.
    pub(super) fn new(head: &Value) -> Document {
        Document { head: message(&HEAD, head), paths: Vec::new(), definitions: Vec::new() }
    }

    pub(super) fn path(&mut self, path: &str, item: &Value) {
        bytes(&mut self.paths, 2, &named(path, &message(&PATH_ITEM, item)));
    }

    pub(super) fn definition(&mut self, name: &str, definition: &Value) {
        bytes(&mut self.definitions, 1, &named(name, &message(&SCHEMA, definition)));
    }

    pub(super) fn finish(self) -> Vec<u8> {
        let mut document = self.head;
        bytes(&mut document, 8, &self.paths);
        bytes(&mut document, 9, &self.definitions);
        document
    }
}

fn message(descriptor: &Descriptor, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    let Some(fields) = value.as_object() else { return out };
    for (key, number, kind) in descriptor.fields {
        if let Some(value) = fields.get(*key) {
            field(&mut out, *number, kind, value);
        }
    }
    if let Some(number) = descriptor.vendor {
        for (key, value) in fields.iter().filter(|(key, _)| key.starts_with("x-")) {
            // An Any holds YAML, of which JSON is a part.
            let mut any = Vec::new();
            bytes(&mut any, 2, value.to_string().as_bytes());
            bytes(&mut out, number, &named(key, &any));
        }
    }
    out
}

fn field(out: &mut Vec<u8>, number: u32, kind: &Kind, value: &Value) {
    match kind {
        Kind::Text => {
            if let Some(text) = value.as_str().filter(|text| !text.is_empty()) {
                bytes(out, number, text.as_bytes());
            }
        }
        Kind::Bool => {
            if value == &Value::Bool(true) {
                varint(out, u64::from(number) << 3);
                varint(out, 1);
            }
        }
        Kind::Texts => {
            for text in value.as_array().into_iter().flatten().filter_map(Value::as_str) {
                bytes(out, number, text.as_bytes());
            }
        }
        Kind::Message(descriptor) => bytes(out, number, &message(descriptor, value)),
        Kind::Messages(descriptor) => {
            for item in value.as_array().into_iter().flatten() {
                bytes(out, number, &message(descriptor, item));
            }
        }
        Kind::Inside(descriptor) => bytes(out, number, &wrapped(1, &message(descriptor, value))),
        Kind::Map(inner, descriptor) => {
            let mut map = Vec::new();
            for (name, value) in value.as_object().into_iter().flatten() {
                bytes(&mut map, *inner, &named(name, &entry(descriptor, value)));
            }
            bytes(out, number, &map);
        }
        Kind::TypeItem => {
            let text = value.as_str().unwrap_or_default();
            bytes(out, number, &wrapped(1, text.as_bytes()));
        }
        Kind::Parameters => {
            for item in value.as_array().into_iter().flatten() {
                // ParametersItem.parameter = 1.
                bytes(out, number, &wrapped(1, &parameter(item)));
            }
        }
    }
}

/// A map's value. Where the message is a choice, JSON has the chosen one itself.
fn entry(descriptor: &'static Descriptor, value: &Value) -> Vec<u8> {
    let wrap = |key: &str| message(descriptor, &Value::Object(Map::from_iter([(key.to_owned(), value.clone())])));
    if std::ptr::eq(descriptor, &RESPONSE_VALUE) {
        wrap("response")
    } else if std::ptr::eq(descriptor, &SECURITY) {
        wrap("apiKey")
    } else {
        message(descriptor, value)
    }
}

fn parameter(value: &Value) -> Vec<u8> {
    match value.get("in").and_then(Value::as_str) {
        Some("body") => wrapped(1, &message(&BODY_PARAMETER, value)),
        Some("path") => wrapped(2, &wrapped(4, &message(&PATH_PARAMETER, value))),
        Some(_) | None => wrapped(2, &wrapped(3, &message(&QUERY_PARAMETER, value))),
    }
}

fn named(name: &str, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + name.len() + 8);
    bytes(&mut out, 1, name.as_bytes());
    bytes(&mut out, 2, value);
    out
}

fn wrapped(number: u32, inner: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(inner.len() + 6);
    bytes(&mut out, number, inner);
    out
}

fn bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    varint(out, u64::from(number) << 3 | 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
