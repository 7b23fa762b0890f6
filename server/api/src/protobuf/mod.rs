//! Reads Kubernetes' protobuf: the envelope `runtime.Unknown` and, by the schema's tags, any kind in it. The outcome is
//! the same object as JSON, so that everything behind it knows one form only.

#[cfg(test)]
mod tests;
mod wire;

use serde_json::{Map, Value};

use crate::meta::GroupVersionKind;
use crate::schema::{FieldDef, FieldType, ProtoShape, Schema, TypeId};
use wire::{Reader, Wire};

/// What begins every object of Kubernetes in protobuf.
const MAGIC: &[u8] = b"k8s\0";
/// Objects nest far less deeply; JSONSchemaProps may nest without end.
const MAX_DEPTH: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    #[error("the body is not Kubernetes' protobuf: it does not begin with \"k8s\\x00\"")]
    Magic,
    #[error("the body is damaged protobuf: {0}")]
    Damaged(&'static str),
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    UnknownKind { api_version: String, kind: String },
    #[error("the body nests more deeply than {MAX_DEPTH} objects")]
    TooDeep,
}

/// An object in its envelope, as JSON with `apiVersion` and `kind`.
pub fn decode(body: &[u8], schema: &Schema) -> Result<Map<String, Value>, ProtobufError> {
    let envelope = Envelope::read(body)?;
    let gvk = GroupVersionKind::from_api_version(&envelope.api_version, &envelope.kind);
    let unknown =
        || ProtobufError::UnknownKind { api_version: envelope.api_version.clone(), kind: envelope.kind.clone() };
    let ty = schema.type_of_kind(&gvk).ok_or_else(unknown)?;
    let mut object = message(schema, ty, envelope.raw, 0)?;
    for (key, value) in [("apiVersion", envelope.api_version), ("kind", envelope.kind)] {
        object.insert(key.to_owned(), Value::String(value));
    }
    Ok(object)
}

/// `runtime.Unknown`.
struct Envelope<'a> {
    api_version: String,
    kind: String,
    raw: &'a [u8],
}

impl Envelope<'_> {
    fn read(body: &[u8]) -> Result<Envelope<'_>, ProtobufError> {
        let mut reader = Reader::new(body.strip_prefix(MAGIC).ok_or(ProtobufError::Magic)?);
        let mut envelope = Envelope { api_version: String::new(), kind: String::new(), raw: &[] };
        while let Some((number, wire)) = reader.field()? {
            match (number, wire) {
                (1, Wire::Bytes(meta)) => {
                    let mut meta = Reader::new(meta);
                    while let Some((number, wire)) = meta.field()? {
                        match (number, wire) {
                            (1, Wire::Bytes(text)) => envelope.api_version = utf8(text)?,
                            (2, Wire::Bytes(text)) => envelope.kind = utf8(text)?,
                            _later_field => {}
                        }
                    }
                }
                (2, Wire::Bytes(raw)) => envelope.raw = raw,
                _encoding_and_type => {}
            }
        }
        Ok(envelope)
    }
}

fn utf8(bytes: &[u8]) -> Result<String, ProtobufError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| ProtobufError::Damaged("a string is not UTF-8"))
}

fn message(schema: &Schema, ty: TypeId, bytes: &[u8], depth: usize) -> Result<Map<String, Value>, ProtobufError> {
    if depth > MAX_DEPTH {
        return Err(ProtobufError::TooDeep);
    }
    let mut object = Map::new();
    let fields = &schema.ty(ty).fields;
    let decoder = Decoder { schema, fields, short_name: schema.ty(ty).short_name(), depth };
    decoder.fields_of(bytes, &[], &mut object)?;
    Ok(object)
}

/// Reads one message, and those that Go embeds in it.
struct Decoder<'a> {
    schema: &'a Schema,
    fields: &'a [FieldDef],
    short_name: &'a str,
    depth: usize,
}

impl Decoder<'_> {
    fn fields_of(&self, bytes: &[u8], outer: &[u16], object: &mut Map<String, Value>) -> Result<(), ProtobufError> {
        let mut reader = Reader::new(bytes);
        while let Some((number, wire)) = reader.field()? {
            let found = self.fields.iter().find_map(|field| {
                let tag = field.proto?;
                let path: Vec<u16> = tag.outer.iter().copied().filter(|part| *part != 0).chain([tag.number]).collect();
                let rest = path.strip_prefix(outer)?;
                (rest.first() == Some(&number)).then_some((field, rest.len() == 1))
            });
            match (found, wire) {
                (Some((field, true)), wire) => self.field(field, wire, object)?,
                (Some((_, false)), Wire::Bytes(embedded)) => {
                    let inner: Vec<u16> = outer.iter().copied().chain([number]).collect();
                    self.fields_of(embedded, &inner, object)?;
                }
                (Some((_, false)), Wire::Number(_) | Wire::Fixed64(_) | Wire::Fixed32(_)) => {
                    return Err(ProtobufError::Damaged("a message is a number"));
                }
                // A field of a later version.
                (None, _) => {}
            }
        }
        Ok(())
    }

    fn field(&self, field: &FieldDef, wire: Wire<'_>, object: &mut Map<String, Value>) -> Result<(), ProtobufError> {
        let shape = field.proto.map_or(ProtoShape::Plain, |tag| tag.shape);
        match (&field.ty, shape) {
            (FieldType::List(element), ProtoShape::Plain | ProtoShape::Raw) => {
                let item = self.value(element, shape, wire)?;
                let list = object.entry(field.name.to_string()).or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(items) = list {
                    items.push(item);
                }
            }
            (FieldType::Map(element), _) => {
                let (key, item) = self.entry(element, shape, wire)?;
                let map = object.entry(field.name.to_string()).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(items) = map {
                    items.insert(key, item);
                }
            }
            (ty, _) => {
                let value = self.value(ty, shape, wire)?;
                if !self.is_unset(field, &value) {
                    object.insert(field.name.to_string(), value);
                }
            }
        }
        Ok(())
    }

    fn entry(&self, element: &FieldType, shape: ProtoShape, wire: Wire<'_>) -> Result<(String, Value), ProtobufError> {
        let (mut key, mut item) = (String::new(), None);
        let mut reader = Reader::new(wire.bytes()?);
        while let Some((number, wire)) = reader.field()? {
            match number {
                1 => key = utf8(wire.bytes()?)?,
                2 => item = Some(self.value(element, shape, wire)?),
                _later_field => {}
            }
        }
        // An entry without a value stands for the zero value of its type.
        let item = match item {
            Some(item) => item,
            None => self.value(element, shape, Wire::Bytes(&[]))?,
        };
        Ok((key, item))
    }

    fn value(&self, ty: &FieldType, shape: ProtoShape, wire: Wire<'_>) -> Result<Value, ProtobufError> {
        match shape {
            ProtoShape::Plain => {}
            ProtoShape::Raw => return raw(wire.bytes()?),
            ProtoShape::Wrapped => return strings(wire.bytes()?),
            ProtoShape::SchemaOrArray | ProtoShape::SchemaOrBool | ProtoShape::SchemaOrStrings => {
                return self.schema_or(shape, wire.bytes()?);
            }
        }
        Ok(match ty {
            FieldType::Bool => Value::Bool(wire.number()? != 0),
            FieldType::Int32 => Value::from(wire.number()?.cast_signed() as i32),
            FieldType::Int64 => Value::from(wire.number()?.cast_signed()),
            FieldType::Double => double(&wire)?,
            FieldType::String => Value::String(utf8(wire.bytes()?)?),
            FieldType::Bytes => Value::String(base64(wire.bytes()?)),
            FieldType::Time => time(wire.bytes()?, false)?,
            FieldType::MicroTime => time(wire.bytes()?, true)?,
            FieldType::Quantity => quantity(wire.bytes()?)?,
            FieldType::IntOrString => int_or_string(wire.bytes()?)?,
            FieldType::Json => raw(wire.bytes()?)?,
            FieldType::Object(id) => Value::Object(message(self.schema, *id, wire.bytes()?, self.depth + 1)?),
            // Lists of lists do not exist in protobuf.
            FieldType::List(element) | FieldType::Map(element) => self.value(element, shape, wire)?,
        })
    }

    /// JSONSchemaProps where a schema, or something else, may stand.
    fn schema_or(&self, shape: ProtoShape, bytes: &[u8]) -> Result<Value, ProtobufError> {
        let props = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
        let ty = self.schema.type_named(props).ok_or(ProtobufError::Damaged("a schema where there is none"))?;
        let read = |bytes| message(self.schema, ty, bytes, self.depth + 1).map(Value::Object);
        let mut schema = None;
        let (mut list, mut allows) = (Vec::new(), false);
        let mut reader = Reader::new(bytes);
        while let Some((number, wire)) = reader.field()? {
            match (shape, number) {
                (ProtoShape::SchemaOrBool, 1) => allows = wire.number()? != 0,
                (ProtoShape::SchemaOrBool, 2) | (_, 1) => schema = Some(read(wire.bytes()?)?),
                (ProtoShape::SchemaOrArray, 2) => list.push(read(wire.bytes()?)?),
                (ProtoShape::SchemaOrStrings, 2) => list.push(Value::String(utf8(wire.bytes()?)?)),
                _later_field => {}
            }
        }
        Ok(match (schema, shape) {
            (Some(schema), _) => schema,
            (None, ProtoShape::SchemaOrBool) => Value::Bool(allows),
            (None, _) => Value::Array(list),
        })
    }

    /// Go writes the zero value of a field that is no pointer, where JSON leaves it out.
    fn is_unset(&self, field: &FieldDef, value: &Value) -> bool {
        match value {
            Value::Null => true,
            Value::String(text) => text.is_empty() && !field.required && !POINTERS_TO_STRINGS.contains(&&*field.name),
            Value::Bool(set) => !set && !field.required && self.is_plain(&field.name),
            Value::Number(number) => number.as_f64() == Some(0.0) && !field.required && self.is_plain(&field.name),
            Value::Array(_) | Value::Object(_) => false,
        }
    }

    /// Whether an optional number or boolean is no pointer in Go, so that zero means "not set".
    fn is_plain(&self, field: &str) -> bool {
        PLAIN.iter().any(|(name, not_in)| *name == field && !not_in.contains(&self.short_name))
    }
}

/// Optional strings whose emptiness says something.
const POINTERS_TO_STRINGS: [&str; 2] = ["storageClassName", "volumeAttributesClassName"];

/// Optional numbers and booleans that are no pointers in Go, and the types in which that name is one.
#[rustfmt::skip]
const PLAIN: &[(&str, &[&str])] = &[
    ("active", &[]), ("authenticated", &[]), ("availableReplicas", &[]), ("chapAuthDiscovery", &[]),
    ("chapAuthSession", &[]), ("clusterScope", &[]), ("code", &[]), ("count", &["VolumeNodeResources"]),
    ("currentHealthy", &[]), ("currentReplicas", &[]), ("denied", &[]), ("deprecated", &[]),
    ("deprecatedCount", &[]), ("desiredHealthy", &[]), ("disruptionsAllowed", &[]), ("exclusiveMaximum", &[]),
    ("exclusiveMinimum", &[]), ("expectedPods", &[]), ("failed", &[]), ("failureThreshold", &[]),
    ("fullyLabeledReplicas", &[]), ("generation", &[]), ("globalDefault", &[]), ("handSize", &[]),
    ("healthCheckNodePort", &[]), ("hostIPC", &[]), ("hostNetwork", &[]), ("hostPID", &[]), ("hostPort", &[]),
    ("initialDelaySeconds", &[]), ("insecureSkipTLSVerify", &[]), ("matchingPrecedence", &[]),
    ("minReadySeconds", &[]), ("nodePort", &[]), ("nullable", &[]), ("number", &[]), ("numberAvailable", &[]),
    ("numberUnavailable", &[]), ("observedGeneration", &["HorizontalPodAutoscalerStatus"]),
    ("partition", &["RollingUpdateStatefulSetStrategy"]), ("paused", &[]), ("periodSeconds", &[]),
    ("preserveUnknownFields", &[]), ("publishNotReadyAddresses", &[]), ("queueLengthLimit", &[]), ("queues", &[]),
    ("readOnly", &["CSIVolumeSource", "AzureDiskVolumeSource"]), ("readyReplicas", &[]),
    ("replicas", &["DeploymentSpec", "ReplicaSetSpec", "StatefulSetSpec", "ReplicationControllerSpec"]),
    ("retryAfterSeconds", &[]), ("signal", &[]), ("sizeBytes", &[]), ("sslEnabled", &[]), ("start", &[]),
    ("stdin", &[]), ("stdinOnce", &[]), ("succeeded", &[]), ("successThreshold", &[]),
    ("timeoutSeconds", &["ClientIPConfig", "MutatingWebhook", "ValidatingWebhook"]), ("tty", &[]),
    ("unavailableReplicas", &[]), ("uniqueItems", &[]), ("unschedulable", &[]), ("updatedNumberScheduled", &[]),
    ("updatedReplicas", &[]), ("value", &[]), ("x-kubernetes-embedded-resource", &[]),
    ("x-kubernetes-int-or-string", &[]), ("priority", &["PodSpec"]),
];

fn double(wire: &Wire<'_>) -> Result<Value, ProtobufError> {
    let Wire::Fixed64(bits) = wire else { return Err(ProtobufError::Damaged("a number of another width")) };
    Ok(serde_json::Number::from_f64(f64::from_bits(*bits)).map_or(Value::Null, Value::Number))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().enumerate().fold(0u32, |word, (at, byte)| word | u32::from(*byte) << (16 - 8 * at));
        for at in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

/// Seconds and nanoseconds; the empty message is no time.
fn time(bytes: &[u8], micro: bool) -> Result<Value, ProtobufError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanos) = (0i64, 0i32);
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.field()? {
        match number {
            1 => seconds = wire.number()?.cast_signed(),
            2 => nanos = wire.number()?.cast_signed() as i32,
            _later_field => {}
        }
    }
    let at = jiff::Timestamp::new(seconds, nanos).map_err(|_| ProtobufError::Damaged("a time out of range"))?;
    let text = if micro { crate::time::format_micro_time(at) } else { crate::time::format_time(at) };
    Ok(Value::String(text))
}

fn quantity(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let mut text = String::new();
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.field()? {
        if number == 1 {
            text = utf8(wire.bytes()?)?;
        }
    }
    Ok(Value::String(text))
}

fn int_or_string(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let (mut is_string, mut int, mut text) = (false, 0i32, String::new());
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.field()? {
        match number {
            1 => is_string = wire.number()? == 1,
            2 => int = wire.number()?.cast_signed() as i32,
            3 => text = utf8(wire.bytes()?)?,
            _later_field => {}
        }
    }
    Ok(if is_string { Value::String(text) } else { Value::from(int) })
}

/// JSON text in field 1.
fn raw(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.field()? {
        if number == 1 {
            let text = wire.bytes()?;
            if text.is_empty() {
                return Ok(Value::Null);
            }
            return serde_json::from_slice(text).map_err(|_| ProtobufError::Damaged("embedded JSON is no JSON"));
        }
    }
    Ok(Value::Null)
}

/// A list of strings in a message of its own.
fn strings(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let mut list = Vec::new();
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.field()? {
        if number == 1 {
            list.push(Value::String(utf8(wire.bytes()?)?));
        }
    }
    Ok(Value::Array(list))
}
