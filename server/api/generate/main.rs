//! Writes `src/schema/v1_36.txt`, the compact table of facts about Kubernetes' built-in kinds, from upstream's
//! published `swagger.json` and `.proto` files:
//!
//! ```text
//! cargo run -p coracle-api --features generate --bin coracle-api-generate -- DIR server/api/src/schema/v1_36.txt
//! ```
//!
//! DIR holds `swagger.json` (api/openapi-spec of the release) and `protos/` (the staging directories' generated.proto
//! files). What swagger does not tell (short names, categories, selectable fields) is in `facts.rs`.
//! A thing that this program does not understand is an error, never a guess.

mod facts;
mod proto;
mod resources;
mod types;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            use std::io::Write;
            // Nothing is left to do when even stderr can't be written to.
            let _ = writeln!(std::io::stderr(), "error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let mut args = std::env::args().skip(1);
    let (Some(dir), Some(out), None) = (args.next(), args.next(), args.next()) else {
        return Err("usage: coracle-api-generate DIR OUT".to_owned());
    };
    let dir = Path::new(&dir);
    let swagger = dir.join("swagger.json");
    let text = std::fs::read_to_string(&swagger).map_err(|e| format!("{}: {e}", swagger.display()))?;
    let swagger: serde_json::Value = serde_json::from_str(&text).map_err(|e| format!("swagger.json: {e}"))?;
    let messages = proto::read_dir(&dir.join("protos"))?;
    let resources = resources::collect(&swagger)?;
    let mut table = String::from(
        "# Facts about the kinds of Kubernetes v1.36; made by server/api/generate, not by hand.\n\
         # R group version plural kind scope singular shortNames categories verbs type [selectable fields]\n\
         # S subresource group version kind verbs type\n\
         # T type [atomic]\n\
         # <space> field type protobuf-tag flags\n",
    );
    for resource in &resources {
        resource.write(&mut table);
    }
    types::write(&swagger, &messages, &resources, &mut table)?;
    std::fs::write(&out, table).map_err(|e| format!("{out}: {e}"))
}
