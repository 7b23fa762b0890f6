//! How the programs log: to standard error, in colour on a terminal, what `RUST_LOG` chooses.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{fmt, registry};

/// To be called once. `default` is what is logged without `RUST_LOG`, such as `warn,coracle=info`.
#[expect(
    clippy::disallowed_methods,
    reason = "each program's main calls this first: what is logged is main's own choice"
)]
pub fn start(default: &str) {
    let wanted = std::env::var("RUST_LOG").unwrap_or_else(|_| default.to_owned());
    let (filter, wrong) = match wanted.parse::<Targets>() {
        Ok(filter) => (filter, None),
        Err(error) => (Targets::new().with_default(LevelFilter::INFO), Some(error)),
    };
    let lines = fmt::layer().with_writer(stderr).with_ansi(stderr().is_terminal());
    registry().with(lines.with_filter(filter)).init();
    if let Some(error) = wrong {
        tracing::warn!(RUST_LOG = wanted, %error, "not understood; it is a list such as info,coracle_agent=debug");
    }
}
