//! The configuration file: a YAML mapping whose keys are the command's own flags. What the command line or the
//! environment says wins over the file, and a key that is no flag is an error that names the file and the key.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches};
use serde_norway::Value;

use crate::cli::Cli;

const DEFAULT_FILE: &str = "/etc/coracle/config.yaml";

/// Commands that use what a server or agent of this host has made. Its configuration is theirs as far as it concerns them.
const ASKING: [&str; 2] = ["token", "image"];

fn is_flag_of_another(key: &str) -> bool {
    let all = Cli::command();
    all.get_subcommands().any(|command| command.get_arguments().any(|arg| arg.get_long() == Some(key)))
}

/// Parses the command line, with the configuration file's values where the command line is silent.
/// Exits with clap's own message when the command line is wrong.
pub(crate) fn parse(args: Vec<OsString>) -> anyhow::Result<Cli> {
    let matches = Cli::command().get_matches_from(&args);
    let extended = match matches.subcommand() {
        Some((name, sub)) => match config_file(sub) {
            Some(path) => with_file(&args, name, sub, &path)?,
            None => args,
        },
        None => args,
    };
    let matches = Cli::command().get_matches_from(extended);
    Ok(Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit()))
}

fn config_file(sub: &ArgMatches) -> Option<PathBuf> {
    let named = sub.try_get_one::<PathBuf>("config").ok()?;
    named.cloned().or_else(|| Path::new(DEFAULT_FILE).exists().then(|| PathBuf::from(DEFAULT_FILE)))
}

/// The arguments with the file's flags put right behind the subcommand's name.
fn with_file(args: &[OsString], name: &str, sub: &ArgMatches, path: &Path) -> anyhow::Result<Vec<OsString>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read the configuration file {}", path.display()))?;
    let command = Cli::command();
    let command = command.find_subcommand(name).expect("clap matched this subcommand");
    let flags = file_flags(&text, command, sub).with_context(|| format!("configuration file {}", path.display()))?;
    let at = args.iter().position(|a| a == name).map_or(args.len(), |at| at + 1);
    Ok(args[..at].iter().cloned().chain(flags).chain(args[at..].iter().cloned()).collect())
}

fn file_flags(text: &str, command: &Command, sub: &ArgMatches) -> anyhow::Result<Vec<OsString>> {
    let mapping = match serde_norway::from_str::<Value>(text)? {
        Value::Null => return Ok(Vec::new()),
        Value::Mapping(mapping) => mapping,
        _ => bail!("it must be a mapping of flag names to values, such as `node-name: pi`"),
    };
    let mut flags = Vec::new();
    for (key, value) in mapping {
        let Value::String(key) = key else { bail!("{key:?} is no flag's name") };
        let Some(arg) = command.get_arguments().find(|a| a.get_long() == Some(&key) && key != "config") else {
            // One file serves all commands of a host: what is another's flag is no mistake for those that only ask.
            if ASKING.contains(&command.get_name()) && is_flag_of_another(&key) {
                continue;
            }
            bail!("unknown key {key:?}: `coracle {} --help` lists the flags", command.get_name());
        };
        let said = sub.value_source(arg.get_id().as_str());
        if matches!(said, Some(ValueSource::CommandLine | ValueSource::EnvVariable)) {
            continue;
        }
        push_flag(&mut flags, &key, &value, matches!(arg.get_action(), ArgAction::SetTrue))?;
    }
    Ok(flags)
}

fn push_flag(flags: &mut Vec<OsString>, key: &str, value: &Value, switch: bool) -> anyhow::Result<()> {
    match value {
        Value::Bool(on) if switch => {
            if *on {
                flags.push(format!("--{key}").into());
            }
        }
        _ if switch => bail!("{key}: it is true or false"),
        Value::Sequence(values) => {
            for value in values {
                push_flag(flags, key, value, false)?;
            }
        }
        Value::String(text) => flags.push(format!("--{key}={text}").into()),
        Value::Number(number) => flags.push(format!("--{key}={number}").into()),
        Value::Bool(on) => flags.push(format!("--{key}={on}").into()),
        Value::Null => {}
        Value::Mapping(_) | Value::Tagged(_) => bail!("{key}: it must be a value or a list of values"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_flags(args: &[&str], file: &str, expected: &str) {
        let matches = Cli::command().get_matches_from(args);
        let (name, sub) = matches.subcommand().expect("a subcommand");
        let command = Cli::command();
        let command = command.find_subcommand(name).expect("it exists");
        let flags = file_flags(file, command, sub)
            .map(|flags| flags.iter().map(|f| f.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" "))
            .unwrap_or_else(|error| format!("{error:#}"));
        assert_eq!(flags, expected);
    }

    #[test]
    fn keys_are_flags_and_lists_repeat() {
        check_flags(
            &["coracle", "server"],
            "node-name: pi\ntls-san: [a, b]\nmax-pods: 7\ndebug: true\ndisable-agent: false\n",
            "--node-name=pi --tls-san=a --tls-san=b --max-pods=7 --debug",
        );
    }

    #[test]
    fn the_command_line_wins() {
        check_flags(&["coracle", "server", "--node-name", "x"], "node-name: pi\n", "");
    }

    #[test]
    fn an_unknown_key_is_named() {
        check_flags(
            &["coracle", "server"],
            "nodename: pi\n",
            "unknown key \"nodename\": `coracle server --help` lists the flags",
        );
        check_flags(&["coracle", "server"], "debug: 3\n", "debug: it is true or false");
        check_flags(&["coracle", "token"], "node-name: pi\ndata-dir: /d\n", "--data-dir=/d");
        check_flags(
            &["coracle", "token"],
            "nodename: pi\n",
            "unknown key \"nodename\": `coracle token --help` lists the flags",
        );
    }
}
