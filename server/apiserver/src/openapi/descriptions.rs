//! Owns the texts that `kubectl explain` shows: packed by the build out of k8s-openapi (see `build.rs`), unpacked when a
//! document is made and dropped with it, so that an idle server holds none of them.

use std::collections::HashMap;
use std::io::Read;

use flate2::read::ZlibDecoder;

static PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.z"));
const RECORD: char = '\u{1e}';
const UNIT: char = '\u{1f}';

/// The description of a type and of its fields.
#[derive(Default)]
pub(super) struct Description {
    pub(super) text: String,
    pub(super) fields: HashMap<String, String>,
}

/// By the type's name in OpenAPI.
pub(super) struct Descriptions {
    types: HashMap<String, Description>,
}

impl Descriptions {
    /// Those of which `wanted` is told the name and says yes.
    pub(super) fn of(wanted: impl Fn(&str) -> bool) -> Descriptions {
        let mut texts = String::new();
        ZlibDecoder::new(PACKED).read_to_string(&mut texts).expect("the build packed text");
        let mut types = HashMap::new();
        for record in texts.split_terminator(RECORD) {
            let mut units = record.split(UNIT);
            let name = units.next().unwrap_or_default();
            if !wanted(name) {
                continue;
            }
            let mut description =
                Description { text: units.next().unwrap_or_default().to_owned(), ..Description::default() };
            while let (Some(field), Some(text)) = (units.next(), units.next()) {
                description.fields.insert(field.to_owned(), text.to_owned());
            }
            types.insert(name.to_owned(), description);
        }
        Descriptions { types }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Description> {
        self.types.get(name)
    }
}
