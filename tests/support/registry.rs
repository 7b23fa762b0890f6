//! Debian's `docker-registry` on a loopback port.

use std::fs;
use std::process::Command;

use crate::{Process, free_port, http_get, wait_for};

pub struct Registry {
    _process: Process,
    _dir: tempfile::TempDir,
    pub port: u16,
}

impl Registry {
    #[must_use]
    pub fn start() -> Registry {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let port = free_port();
        let config = dir.path().join("config.yml");
        let text = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
            dir.path().join("data").display()
        );
        fs::write(&config, text).expect("the temporary directory can be written");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config);
        let process = Process::start(&mut command);
        wait_for("the registry to answer", || http_get(([127, 0, 0, 1], port).into(), "/v2/").ok());
        Registry { _process: process, _dir: dir, port }
    }
}
