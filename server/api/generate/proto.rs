//! Reads the field numbers out of upstream's generated.proto files. They are regular enough for a line reader.

use std::collections::BTreeMap;
use std::path::Path;

#[derive(Clone)]
pub(crate) struct Field {
    pub(crate) name: String,
    /// `string`, `.k8s.io...PodSpec`, or `map<string, X>`; messages of the own package are qualified.
    pub(crate) ty: String,
    pub(crate) number: u16,
}

/// Qualified message name (`api.core.v1.PodSpec`, underscores as in the package) to its fields.
pub(crate) type Messages = BTreeMap<String, Vec<Field>>;

const SCALARS: &[&str] = &["string", "bytes", "bool", "int32", "int64", "double"];

pub(crate) fn read_dir(dir: &Path) -> Result<Messages, String> {
    let mut messages = Messages::new();
    let mut pending = vec![dir.to_path_buf()];
    while let Some(at) = pending.pop() {
        let entries = std::fs::read_dir(&at).map_err(|e| format!("{}: {e}", at.display()))?;
        for entry in entries {
            let path = entry.map_err(|e| format!("{}: {e}", at.display()))?.path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|e| e == "proto") {
                let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
                read(&text, &mut messages).map_err(|e| format!("{}: {e}", path.display()))?;
            }
        }
    }
    Ok(messages)
}

fn read(text: &str, messages: &mut Messages) -> Result<(), String> {
    let mut package = String::new();
    let mut current: Option<(String, Vec<Field>)> = None;
    let mut in_comment = false;
    for line in text.lines().map(str::trim) {
        if in_comment || line.starts_with("/*") {
            in_comment = !line.contains("*/");
        } else if line.is_empty() || line.starts_with("//") {
        } else if let Some(name) = line.strip_prefix("package ") {
            package = name.trim_end_matches(';').trim_start_matches("k8s.io.").to_owned();
        } else if let Some(name) = line.strip_prefix("message ") {
            let name = name.trim_end_matches(['{', ' ']);
            current = Some((format!("{package}.{name}"), Vec::new()));
        } else if line == "}" {
            let (name, fields) = current.take().ok_or("a closing brace outside a message")?;
            messages.insert(name, fields);
        } else if let Some((_, fields)) = &mut current {
            fields.push(field(line, &package)?);
        }
    }
    Ok(())
}

fn field(line: &str, package: &str) -> Result<Field, String> {
    let bad = || format!("cannot read {line:?}");
    let (left, number) = line.trim_end_matches(';').split_once(" = ").ok_or_else(bad)?;
    let left = left.trim_start_matches("optional ").trim_start_matches("repeated ");
    let (ty, name) = left.rsplit_once(' ').ok_or_else(bad)?;
    let ty = match ty.strip_prefix("map<string, ").and_then(|t| t.strip_suffix('>')) {
        Some(value) => format!("map<string, {}>", qualified(value, package)),
        None => qualified(ty, package),
    };
    Ok(Field { name: name.to_owned(), ty, number: number.parse().map_err(|_| bad())? })
}

fn qualified(ty: &str, package: &str) -> String {
    if SCALARS.contains(&ty) {
        return ty.to_owned();
    }
    let ty = ty.trim_start_matches('.').trim_start_matches("k8s.io.");
    if ty.contains('.') { ty.to_owned() } else { format!("{package}.{ty}") }
}
