//! Owns the columns and cells that `kubectl get` shows: for each kind the ones upstream's printers have, in their order
//! and wording; for any other kind its name and when it was made. Must not know the envelope they are sent in.

mod cluster;
mod columns;
mod core;
mod duration;
mod network;
mod pods;
mod policy;
mod storage;
#[cfg(test)]
mod tests;
mod view;
mod workloads;

use coracle_api::object::{ConvertError, Object};
use coracle_api::schema::ResourceDef;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::hooks;

pub use duration::human as human_duration;

/// What a printer knows besides the object.
struct Context {
    now: Timestamp,
}

/// A printed object.
struct Row {
    cells: Vec<Value>,
    /// Reason and message of an object that is over.
    completed: Option<(&'static str, &'static str)>,
}

type Print = fn(&Object, &Context) -> Result<Row, ConvertError>;

/// How one kind is shown.
struct Printer {
    columns: Vec<columns::Column>,
    print: Print,
}

/// A row of the given cells.
macro_rules! cells {
    ($($cell:expr),* $(,)?) => {
        $crate::table::Row { cells: vec![$(serde_json::Value::from($cell)),*], completed: None }
    };
}
use cells;

fn parse<T: DeserializeOwned>(object: &Object) -> Result<T, ConvertError> {
    object.typed()
}

/// The columns of upstream's printers.
#[derive(Debug, Default, Clone, Copy)]
pub struct Printers;

impl hooks::Tables for Printers {
    fn columns(&self, def: &ResourceDef) -> Vec<hooks::Column> {
        let columns = match columns::of(&def.group, &def.kind) {
            Some(printer) => &printer.columns,
            None => &columns::default().columns,
        };
        columns
            .iter()
            .map(|column| hooks::Column {
                name: column.name.to_owned(),
                r#type: column.ty.to_owned(),
                format: column.format.to_owned(),
                description: describe(column).to_owned(),
                priority: column.priority,
            })
            .collect()
    }

    fn row(&self, def: &ResourceDef, object: &Object, now: Timestamp) -> hooks::Row {
        let printer = columns::of(&def.group, &def.kind).unwrap_or_else(columns::default);
        row(printer, object, now)
    }
}

fn row(printer: &Printer, object: &Object, now: Timestamp) -> hooks::Row {
    let printed = (printer.print)(object, &Context { now }).unwrap_or_else(|error| {
        // Stored objects are of their schema, so this is a fault of ours; the other rows are still worth showing.
        tracing::error!(kind = object.kind(), name = object.name(), %error, "cannot print an object");
        let mut cells: Vec<Value> = printer.columns.iter().map(|_| Value::from("<unknown>")).collect();
        if let Some(at) = printer.columns.iter().position(|column| column.format == "name") {
            cells[at] = Value::from(object.name());
        }
        Row { cells, completed: None }
    });
    let condition =
        |(reason, message)| json!({ "type": "Completed", "status": "True", "reason": reason, "message": message });
    hooks::Row { cells: printed.cells, conditions: printed.completed.map(condition).into_iter().collect() }
}

fn describe(column: &columns::Column) -> &'static str {
    match column.name {
        "Name" => "Name of the object, unique among its kind in its namespace",
        "Age" => "Time since the object was created",
        "Created At" => "When the object was created",
        "Containers" => "Names of each container in the template",
        "Images" => "Images referenced by each container in the template",
        "Selector" => "Label selector of the objects this one manages",
        _special => "",
    }
}
