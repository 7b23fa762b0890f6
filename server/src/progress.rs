//! What `up` is doing, a line per step with its time.

#![expect(clippy::print_stdout, reason = "what `up` shows goes to the terminal it was started in")]

use tokio::time::Instant;

pub(crate) struct Progress {
    started: Option<Instant>,
}

impl Progress {
    /// Says nothing: a server logs instead.
    pub(crate) fn silent() -> Progress {
        Progress { started: None }
    }

    pub(crate) fn shown() -> Progress {
        Progress { started: Some(Instant::now()) }
    }

    /// One step that is done.
    pub(crate) fn step(&self, what: &str, text: &str) {
        if let Some(started) = self.started {
            println!("{:>7.3}s  {what:<10} {text}", started.elapsed().as_secs_f64());
        }
    }

    /// Something the user will want to copy.
    pub(crate) fn tell(&self, what: &str, text: &str) {
        if self.started.is_some() {
            println!("          {what:<10} {text}");
        }
    }
}
