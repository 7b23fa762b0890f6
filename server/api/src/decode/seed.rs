//! The one serde seed that decodes any field of any type: the schema says what is expected, the input what is there.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::scalar;
use crate::schema::{FieldDef, FieldType, Schema, TypeDef};

/// Upstream stops listing problems here, too.
const MAX_PROBLEMS: usize = 100;

pub(super) struct Context<'s> {
    pub(super) schema: &'s Schema,
    /// The input is YAML: some scalars have more spellings.
    pub(super) yaml: bool,
    /// Unknown and duplicate fields are of interest.
    pub(super) strict: bool,
    pub(super) problems: RefCell<Vec<String>>,
    /// The first value of a wrong type: decoding stops there.
    pub(super) mismatch: RefCell<Option<String>>,
}

/// Where in the input we are: a chain on the stack, made into text only for a message.
pub(super) struct Frame<'a> {
    parent: Option<&'a Frame<'a>>,
    step: Step<'a>,
}

enum Step<'a> {
    Root,
    Field(&'a str),
    Key(&'a str),
    Index(usize),
}

impl<'a> Frame<'a> {
    pub(super) fn root() -> Frame<'static> {
        Frame { parent: None, step: Step::Root }
    }

    fn then<'b>(&'b self, step: Step<'b>) -> Frame<'b> {
        Frame { parent: Some(self), step }
    }

    /// `spec.containers[0].image`
    fn full(&self, out: &mut String) {
        if let Some(parent) = self.parent {
            parent.full(out);
        }
        match self.step {
            Step::Root => {}
            Step::Field(name) | Step::Key(name) => {
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(name);
            }
            Step::Index(index) => out.push_str(&format!("[{index}]")),
        }
    }

    /// `spec.containers.image`: how Go's decoder names a field, without indexes and keys.
    fn fields(&self, out: &mut String) {
        if let Some(parent) = self.parent {
            parent.fields(out);
        }
        match self.step {
            Step::Root | Step::Key(_) | Step::Index(_) => {}
            Step::Field(name) => {
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(name);
            }
        }
    }
}

/// Decodes one value of type `ty`. `Value::Null` means absent.
#[derive(Clone, Copy)]
pub(super) struct Seed<'a, 's> {
    pub(super) cx: &'a Context<'s>,
    pub(super) ty: &'a FieldType,
    /// The innermost type that has a field on the way here.
    pub(super) owner: Option<&'a TypeDef>,
    pub(super) at: &'a Frame<'a>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.ty {
            FieldType::Json => Value::deserialize(deserializer),
            FieldType::Bool
            | FieldType::Int32
            | FieldType::Int64
            | FieldType::Double
            | FieldType::String
            | FieldType::Bytes
            | FieldType::Time
            | FieldType::MicroTime
            | FieldType::Quantity
            | FieldType::IntOrString
            | FieldType::Object(_)
            | FieldType::List(_)
            | FieldType::Map(_) => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Seed<'_, '_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.go_type(self.ty))
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        if *self.ty == FieldType::Bool { Ok(Value::Bool(value)) } else { self.mismatch("bool") }
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        match self.ty {
            FieldType::Int32 | FieldType::IntOrString if i32::try_from(value).is_err() => {
                self.mismatch(&format!("number {value}"))
            }
            FieldType::Int32 | FieldType::Int64 | FieldType::IntOrString | FieldType::Double => Ok(value.into()),
            FieldType::Quantity => self.text(value.to_string()),
            _ => self.mismatch("number"),
        }
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            Err(_) if *self.ty == FieldType::Double => Ok(value.into()),
            Err(_) if *self.ty == FieldType::Quantity => self.text(value.to_string()),
            Err(_) => self.mismatch(&format!("number {value}")),
        }
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        match self.ty {
            FieldType::Double => Ok(Number::from_f64(value).map_or(Value::Null, Value::Number)),
            FieldType::Quantity => self.text(value.to_string()),
            FieldType::Int32 | FieldType::Int64 | FieldType::IntOrString => self.mismatch(&format!("number {value}")),
            _ => self.mismatch("number"),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        self.visit_string(text.to_owned())
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Value, E> {
        match self.ty {
            FieldType::String | FieldType::IntOrString => Ok(Value::String(text)),
            FieldType::Bytes | FieldType::Time | FieldType::MicroTime | FieldType::Quantity => self.text(text),
            FieldType::Bool if self.cx.yaml => match scalar::yaml_bool(&text) {
                Some(value) => Ok(Value::Bool(value)),
                None => self.mismatch("string"),
            },
            FieldType::Int32 | FieldType::Int64 if self.cx.yaml => match scalar::yaml_octal(&text) {
                Some(value) => self.visit_i64(value),
                None => self.mismatch("string"),
            },
            _ => self.mismatch("string"),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let FieldType::List(of) = self.ty else { return self.mismatch("array") };
        let mut values = Vec::with_capacity(seq.size_hint().unwrap_or(0).min(64));
        loop {
            let at = self.at.then(Step::Index(values.len()));
            match seq.next_element_seed(Seed { ty: of, at: &at, ..self })? {
                Some(Value::Null) => values.push(zero(of)),
                Some(value) => values.push(value),
                None => return Ok(Value::Array(values)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value, A::Error> {
        match self.ty {
            FieldType::Object(id) => self.object(self.cx.schema.ty(*id), map),
            FieldType::Map(of) => self.map(of, map),
            _ => self.mismatch("object"),
        }
    }
}

impl<'a> Seed<'a, '_> {
    fn object<'de, A: MapAccess<'de>>(self, ty: &'a TypeDef, mut input: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        let mut seen = Seen::default();
        while let Some(key) = input.next_key_seed(KeySeed)? {
            let Ok(index) = ty.fields.binary_search_by(|f| (*f.name).cmp(&key)) else {
                if ty.preserves_unknown {
                    self.keep_unknown(&mut out, key, &mut input)?;
                } else {
                    self.problem("unknown", &key);
                    input.next_value::<IgnoredAny>()?;
                }
                continue;
            };
            let field = &ty.fields[index];
            if seen.again(index, &field.name, &out) {
                self.problem("duplicate", &field.name);
            }
            let at = self.at.then(Step::Field(&field.name));
            let value = input.next_value_seed(Seed { cx: self.cx, ty: &field.ty, owner: Some(ty), at: &at })?;
            if is_absent(ty, field, &value) {
                out.remove(&*field.name);
            } else {
                out.insert(key.into_owned(), value);
            }
        }
        Ok(Value::Object(out))
    }

    fn keep_unknown<'de, A: MapAccess<'de>>(
        self,
        out: &mut Map<String, Value>,
        key: Cow<'de, str>,
        input: &mut A,
    ) -> Result<(), A::Error> {
        if out.contains_key(&*key) {
            self.problem("duplicate", &key);
        }
        out.insert(key.into_owned(), input.next_value()?);
        Ok(())
    }

    fn map<'de, A: MapAccess<'de>>(self, of: &'a FieldType, mut input: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = input.next_key_seed(KeySeed)? {
            if self.cx.strict && out.contains_key(&*key) {
                self.problem("duplicate", &key);
            }
            let at = self.at.then(Step::Key(&key));
            let mut value = input.next_value_seed(Seed { ty: of, at: &at, ..self })?;
            if value.is_null() {
                value = zero(of);
            }
            out.insert(key.into_owned(), value);
        }
        Ok(Value::Object(out))
    }

    /// A scalar that is text in JSON and has a form of its own.
    fn text<E: Error>(self, text: String) -> Result<Value, E> {
        let read = match self.ty {
            FieldType::Bytes => scalar::base64(text),
            FieldType::Time => scalar::timestamp(text, false),
            FieldType::MicroTime => scalar::timestamp(text, true),
            _ => scalar::quantity(text),
        };
        read.map_err(|why| self.fail(why))
    }

    fn mismatch<E: Error>(self, found: &str) -> Result<Value, E> {
        let ty = self.go_type(self.ty);
        let Some(owner) = self.owner else {
            return Err(self.fail(format!("json: cannot unmarshal {found} into Go value of type {ty}")));
        };
        let mut path = String::new();
        self.at.fields(&mut path);
        let owner = owner.short_name();
        Err(self.fail(format!("json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {ty}")))
    }

    /// The text goes beside serde's error, which would add a line and a column to it.
    fn fail<E: Error>(self, message: String) -> E {
        self.cx.mismatch.borrow_mut().get_or_insert(message);
        E::custom("a value of a wrong type")
    }

    fn problem(self, what: &str, name: &str) {
        let mut problems = self.cx.problems.borrow_mut();
        if !self.cx.strict || problems.len() >= MAX_PROBLEMS {
            return;
        }
        let mut path = String::new();
        self.at.then(Step::Field(name)).full(&mut path);
        problems.push(format!("{what} field {path:?}"));
    }

    fn go_type(self, ty: &FieldType) -> String {
        match ty {
            FieldType::Bool => "bool".to_owned(),
            FieldType::Int32 => "int32".to_owned(),
            FieldType::Int64 => "int64".to_owned(),
            FieldType::Double => "float64".to_owned(),
            FieldType::String | FieldType::Time | FieldType::MicroTime | FieldType::Quantity => "string".to_owned(),
            FieldType::Bytes => "[]uint8".to_owned(),
            FieldType::IntOrString => "intstr.IntOrString".to_owned(),
            FieldType::Json => "interface {}".to_owned(),
            FieldType::List(of) => format!("[]{}", self.go_type(of)),
            FieldType::Map(of) => format!("map[string]{}", self.go_type(of)),
            FieldType::Object(id) => {
                let name = &self.cx.schema.ty(*id).name;
                let mut parts = name.rsplit('.');
                let (kind, package) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
                format!("{package}.{kind}")
            }
        }
    }
}

/// Which fields of a type have been met.
#[derive(Default)]
struct Seen(u128);

impl Seen {
    fn again(&mut self, index: usize, name: &str, out: &Map<String, Value>) -> bool {
        let Some(bit) = u32::try_from(index).ok().and_then(|i| 1u128.checked_shl(i)) else {
            return out.contains_key(name);
        };
        let again = self.0 & bit != 0;
        self.0 |= bit;
        again
    }
}

/// Whether Go would not write the field back.
fn is_absent(ty: &TypeDef, field: &FieldDef, value: &Value) -> bool {
    if ty.exact {
        return false;
    }
    match (value, &field.ty) {
        (Value::Null, _) => true,
        (Value::Array(list), FieldType::List(_)) => list.is_empty() && !field.required,
        (Value::Object(map), FieldType::Map(_)) => map.is_empty() && !field.required,
        _ => false,
    }
}

/// What a null in a list or a map means. Go has nil bytes, lists and maps there, which mean the same as empty ones;
/// written out as null they would be no bytes, list or map to a strict client.
fn zero(ty: &FieldType) -> Value {
    match ty {
        FieldType::Bool => Value::Bool(false),
        FieldType::Int32 | FieldType::Int64 | FieldType::Double | FieldType::IntOrString => 0.into(),
        FieldType::String | FieldType::Bytes => Value::String(String::new()),
        FieldType::Quantity => Value::String("0".to_owned()),
        FieldType::Object(_) | FieldType::Map(_) => Value::Object(Map::new()),
        FieldType::List(_) => Value::Array(Vec::new()),
        FieldType::Time | FieldType::MicroTime | FieldType::Json => Value::Null,
    }
}

/// A key, borrowed from the input where that is possible. YAML's keys may be numbers or booleans.
struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for KeySeed {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E: Error>(self, key: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key.to_owned()))
    }

    fn visit_string<E: Error>(self, key: String) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key))
    }

    fn visit_bool<E: Error>(self, key: bool) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key.to_string()))
    }

    fn visit_i64<E: Error>(self, key: i64) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key.to_string()))
    }

    fn visit_u64<E: Error>(self, key: u64) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key.to_string()))
    }

    fn visit_f64<E: Error>(self, key: f64) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key.to_string()))
    }
}
