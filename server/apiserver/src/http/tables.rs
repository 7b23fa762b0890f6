//! The envelope of Tables: columns, rows and what each row carries of its object. Columns and cells come from the hook.

use bytes::Bytes;
use coracle_api::fields::{FieldError, FieldPath};
use coracle_api::object::Object;
use coracle_api::status::Status;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::query::Query;
use super::respond;
use crate::hooks::{Row, Tables};
use crate::registry::catalog::Resource;
use crate::registry::list::Page;

/// `includeObject`: how much of its object a row carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Include {
    Metadata,
    Object,
    None,
}

impl Include {
    pub(super) fn parse(query: &Query) -> Result<Self, Status> {
        match query.text("includeObject") {
            "" | "Metadata" => Ok(Include::Metadata),
            "Object" => Ok(Include::Object),
            "None" => Ok(Include::None),
            other => {
                let error = FieldError::not_supported(
                    &FieldPath::new("includeObject"),
                    other,
                    &["Metadata", "None", "Object", ""],
                );
                Err(Status::bad_request(format!("Unable to convert to Table as requested: {error}")))
            }
        }
    }
}

/// Writes Tables for one request.
pub(super) struct TableWriter<'a> {
    pub(super) tables: &'a dyn Tables,
    pub(super) resource: &'a Resource,
    pub(super) include: Include,
    pub(super) meta_version: &'static str,
    pub(super) now: Timestamp,
}

impl TableWriter<'_> {
    /// A Table of one object, given in the served version. `headers`: with the columns' definitions (a watch sends them
    /// with its first event only).
    pub(super) fn one(&self, json: &Bytes, headers: bool) -> Result<Bytes, Status> {
        let object: Object = serde_json::from_slice(json).map_err(Status::internal)?;
        let mut out = Vec::with_capacity(2048);
        self.open(&mut out, headers, &json!({"resourceVersion": object.resource_version()}));
        self.row(&mut out, &object, json)?;
        out.extend_from_slice(b"]}");
        Ok(out.into())
    }

    pub(super) fn page(&self, page: &Page) -> Result<Bytes, Status> {
        let mut out = Vec::with_capacity(page.entries.len() * 1024 + 2048);
        let mut metadata = json!({"resourceVersion": page.revision.to_string()});
        if !page.continue_token.is_empty() {
            metadata["continue"] = page.continue_token.clone().into();
        }
        if let Some(remaining) = page.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
        self.open(&mut out, true, &metadata);
        for (at, entry) in page.entries.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            let json = self.resource.conversion.served_json(self.resource, &entry.json)?;
            let object: Object = serde_json::from_slice(&json).map_err(Status::internal)?;
            self.row(&mut out, &object, &json)?;
        }
        out.extend_from_slice(b"]}\n");
        Ok(out.into())
    }

    /// Everything up to the first row.
    fn open(&self, out: &mut Vec<u8>, headers: bool, metadata: &Value) {
        let columns: Vec<Value> = if headers {
            let columns = self.tables.columns(&self.resource.def);
            columns
                .into_iter()
                .map(|column| {
                    json!({
                        "name": column.name, "type": column.r#type, "format": column.format,
                        "description": column.description, "priority": column.priority,
                    })
                })
                .collect()
        } else {
            Vec::new()
        };
        let head = format!(
            "{{\"kind\":\"Table\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"columnDefinitions\":{},\"rows\":[",
            self.meta_version,
            Value::from(columns)
        );
        out.extend_from_slice(head.as_bytes());
    }

    fn row(&self, out: &mut Vec<u8>, object: &Object, json: &[u8]) -> Result<(), Status> {
        let Row { cells, conditions } = self.tables.row(&self.resource.def, object, self.now);
        out.extend_from_slice(b"{\"cells\":");
        out.extend_from_slice(Value::from(cells).to_string().as_bytes());
        if !conditions.is_empty() {
            out.extend_from_slice(b",\"conditions\":");
            out.extend_from_slice(Value::from(conditions).to_string().as_bytes());
        }
        match self.include {
            Include::None => {}
            Include::Object => {
                out.extend_from_slice(b",\"object\":");
                out.extend_from_slice(json);
            }
            Include::Metadata => {
                out.extend_from_slice(b",\"object\":");
                respond::write_partial(out, json, self.meta_version)?;
            }
        }
        out.push(b'}');
        Ok(())
    }
}
