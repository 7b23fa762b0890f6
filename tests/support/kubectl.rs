//! The unmodified `kubectl` of this machine.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::checkout;

pub struct Kubectl {
    kubeconfig: PathBuf,
}

#[derive(Debug)]
pub struct Output {
    pub ok: bool,
    pub stdout: String,
    pub stderr: String,
}

impl Kubectl {
    #[must_use]
    pub fn new(kubeconfig: PathBuf) -> Kubectl {
        Kubectl { kubeconfig }
    }

    /// The command with its kubeconfig and a discovery cache of its own: other clusters' must not leak in.
    #[allow(clippy::disallowed_methods, reason = "a test reads its environment")]
    pub fn command(&self, args: &[&str]) -> Command {
        let program = std::env::var_os("KUBECTL").unwrap_or_else(|| "kubectl".into());
        let mut command = Command::new(program);
        let cache = self.kubeconfig.with_file_name("kubectl-cache");
        command
            .current_dir(checkout())
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", &cache)
            .env("KUBECACHEDIR", cache)
            .args(args);
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.run_with_input(args, "")
    }

    pub fn run_with_input(&self, args: &[&str], input: &str) -> Output {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("kubectl is installed: tests/run sees to it");
        // kubectl may end without reading its input; that is its right.
        let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
        let output = child.wait_with_output().expect("kubectl can be waited for");
        Output {
            ok: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs a command that must succeed, and gives what it printed.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.ok, "kubectl {}\n{}{}", args.join(" "), output.stdout, output.stderr);
        output.stdout
    }

    /// Runs a command that must fail, and gives what it complained of.
    pub fn fails(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(!output.ok, "kubectl {} succeeded:\n{}", args.join(" "), output.stdout);
        output.stderr
    }

    /// `kubectl apply -f -`
    pub fn apply(&self, manifest: &str) -> String {
        let output = self.run_with_input(&["apply", "-f", "-"], manifest);
        assert!(output.ok, "kubectl apply\n{}{}", output.stdout, output.stderr);
        output.stdout
    }
}
