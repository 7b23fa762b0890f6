//! `coracle token`: prints the token with which agents join, from this host's data directory.

use std::io::Write as _;

use anyhow::Context;

use crate::cli::TokenArgs;
use crate::paths::Paths;

pub(crate) fn run(args: &TokenArgs) -> anyhow::Result<()> {
    let paths = Paths::existing(args.common.data_dir.as_deref())?;
    let file = paths.server().join("token");
    let token = std::fs::read_to_string(&file).with_context(|| match file.exists() {
        true => format!("cannot read {}: it is its owner's, who started the server", file.display()),
        false => format!("there is no token in {}: `coracle server` with the same --data-dir makes it", file.display()),
    })?;
    writeln!(std::io::stdout(), "{}", token.trim())?;
    Ok(())
}
