//! What a WebAssembly file imports and exports, for those who look at an image. No I/O, and nothing is compiled.

use std::collections::BTreeSet;

use serde::Serialize;
use wasmparser::{Encoding, Parser, Payload};

/// The outside of a WebAssembly file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Interfaces {
    /// `module`, `component` or `http component`.
    pub kind: &'static str,
    /// The version of WASI it is for, if it uses any.
    pub wasi: Option<String>,
    pub imports: BTreeSet<String>,
    pub exports: BTreeSet<String>,
}

/// Reads the outermost structure. Of a core module's imports only the modules are named.
pub fn interfaces(wasm: &[u8]) -> Result<Interfaces, String> {
    let bad = |error: wasmparser::BinaryReaderError| format!("it is not valid WebAssembly: {error}");
    let (mut imports, mut exports) = (BTreeSet::new(), BTreeSet::new());
    let mut encoding = None;
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.map_err(bad)? {
            Payload::Version { encoding: found, .. } => {
                if depth == 0 {
                    encoding = Some(found);
                }
                depth += 1;
            }
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ImportSection(section) if depth == 1 => {
                for import in section.into_imports() {
                    imports.insert(import.map_err(bad)?.module.to_owned());
                }
            }
            Payload::ExportSection(section) if depth == 1 => {
                for export in section {
                    exports.insert(export.map_err(bad)?.name.to_owned());
                }
            }
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    imports.insert(import.map_err(bad)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    exports.insert(export.map_err(bad)?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    let all = || imports.iter().chain(&exports);
    let (kind, wasi) = match encoding {
        None => return Err("it is empty".to_owned()),
        Some(Encoding::Module) => ("module", imports.contains("wasi_snapshot_preview1").then(|| "0.1".to_owned())),
        Some(Encoding::Component) => {
            let versions: BTreeSet<&str> = all()
                .filter(|name| name.starts_with("wasi:"))
                .filter_map(|name| name.split_once('@').map(|(_, version)| version))
                .collect();
            let http = exports
                .iter()
                .any(|name| name.starts_with("wasi:http/incoming-handler") || name.starts_with("wasi:http/handler"));
            let kind = if http { "http component" } else { "component" };
            (kind, (!versions.is_empty()).then(|| versions.into_iter().collect::<Vec<_>>().join(", ")))
        }
    };
    Ok(Interfaces { kind, wasi, imports, exports })
}
