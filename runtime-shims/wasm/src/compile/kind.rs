//! What a WebAssembly file is, from what it exports. No I/O.

use serde::{Deserialize, Serialize};
use wasmparser::{Encoding, Parser, Payload};

use crate::listed::listed;

/// How a guest is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum GuestKind {
    /// A core module with `_start`, on WASI 0.1.
    Module,
    /// A component that exports `wasi:cli/run`.
    Command,
    /// A component that exports `wasi:http/incoming-handler`: an instance for each request.
    Http,
    /// A component that exports `wasi:cli/run` of WASI 0.3.
    Command3,
    /// A component that exports `wasi:http/handler` of WASI 0.3: instances are kept between requests.
    Http3,
}

impl GuestKind {
    pub(crate) fn is_component(self) -> bool {
        match self {
            GuestKind::Module => false,
            GuestKind::Command | GuestKind::Http | GuestKind::Command3 | GuestKind::Http3 => true,
        }
    }

    /// Needs an engine that runs several calls of an instance at once.
    pub(crate) fn is_concurrent(self) -> bool {
        match self {
            GuestKind::Module | GuestKind::Command | GuestKind::Http => false,
            GuestKind::Command3 | GuestKind::Http3 => true,
        }
    }
}

/// What a file is and what has to be opened for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub(crate) kind: GuestKind,
    /// It imports `wasi:keyvalue`.
    pub(crate) uses_keyvalue: bool,
}

/// Behind the kind's name, where one word has to say everything.
const WITH_KEYVALUE: &str = "+keyvalue";

impl Facts {
    pub(super) fn name(self) -> String {
        let kind = match serde_json::to_value(self.kind) {
            Ok(serde_json::Value::String(kind)) => kind,
            Ok(_) | Err(_) => unreachable!("a kind is a word"),
        };
        format!("{kind}{}", if self.uses_keyvalue { WITH_KEYVALUE } else { "" })
    }

    /// None for what another version wrote.
    pub(super) fn named(name: &str) -> Option<Facts> {
        let kind = name.strip_suffix(WITH_KEYVALUE);
        let uses_keyvalue = kind.is_some();
        let kind = serde_json::Value::String(kind.unwrap_or(name).to_owned());
        Some(Facts { kind: serde_json::from_value(kind).ok()?, uses_keyvalue })
    }
}

/// Reads the outer structure only; whether the rest is valid is for the compiler to say.
pub(super) fn detect(wasm: &[u8]) -> Result<Facts, String> {
    let mut exports: Vec<String> = Vec::new();
    let mut uses_keyvalue = false;
    let mut encoding = None;
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.map_err(|error| format!("it is not valid WebAssembly: {error}"))? {
            Payload::Version { encoding: found, .. } => {
                if depth == 0 {
                    encoding = Some(found);
                }
                depth += 1;
            }
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ExportSection(section) if depth == 1 => {
                for export in section {
                    exports
                        .push(export.map_err(|error| format!("it is not valid WebAssembly: {error}"))?.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    let export = export.map_err(|error| format!("it is not valid WebAssembly: {error}"))?;
                    exports.push(export.name.name.to_owned());
                }
            }
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    let import = import.map_err(|error| format!("it is not valid WebAssembly: {error}"))?;
                    uses_keyvalue |= import.name.name.starts_with("wasi:keyvalue/");
                }
            }
            _ => {}
        }
    }
    let kind = match encoding {
        Some(Encoding::Module) if exports.iter().any(|name| name == "_start") => Ok(GuestKind::Module),
        Some(Encoding::Module) => Err(format!(
            "the module has no `_start` to run (it exports {}); build it as a program, not as a library",
            listed(&exports)
        )),
        Some(Encoding::Component) => component(&exports),
        None => Err("it is empty".to_owned()),
    }?;
    Ok(Facts { kind, uses_keyvalue })
}

/// HTTP first, newer releases first.
fn component(exports: &[String]) -> Result<GuestKind, String> {
    let has = |interface: &str, release: &str| {
        let versions = exports.iter().filter_map(|name| name.strip_prefix(interface)?.strip_prefix(release));
        // Drafts have a word behind the number, and are not what was released.
        versions.into_iter().any(|patch| !patch.contains('-'))
    };
    let kinds = [
        ("wasi:http/handler", "@0.3.", GuestKind::Http3),
        ("wasi:http/incoming-handler", "@0.2.", GuestKind::Http),
        ("wasi:cli/run", "@0.3.", GuestKind::Command3),
        ("wasi:cli/run", "@0.2.", GuestKind::Command),
    ];
    if let Some((_, _, kind)) = kinds.into_iter().find(|(interface, release, _)| has(interface, release)) {
        return Ok(kind);
    }
    Err(format!(
        "the component exports neither wasi:http/incoming-handler@0.2 nor wasi:cli/run@0.2, nor wasi:http/handler@0.3 nor \
         wasi:cli/run@0.3 (it exports {})",
        listed(exports)
    ))
}
