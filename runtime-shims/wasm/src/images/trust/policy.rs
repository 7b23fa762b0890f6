//! `policy.yaml`: which images need whose signature. Read at each pull. A file that cannot be read or understood lets
//! nothing in.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::PublicKey;
use crate::images::registry::{ConfigFile, home};
use crate::images::{ImageName, name};

/// Where the policy is looked for when nobody says where it is.
pub const DEFAULT_POLICY_FILE: &str = "/etc/coracle/policy.yaml";

#[derive(Debug, Default)]
pub(in crate::images) struct Policy {
    default: Action,
    rules: Vec<Rule>,
    /// Whose machine code is run.
    pub(super) precompiled: Vec<PublicKey>,
}

#[derive(Debug)]
struct Rule {
    prefix: Prefix,
    verdict: Verdict,
}

/// Which images a rule is about. Registries are told apart by where they are asked, not by how names spell them: else
/// another spelling of a name would evade the rule.
#[derive(Debug)]
enum Prefix {
    Every,
    At { home: String, path: String },
}

/// What a policy says of one image.
#[derive(Debug, Clone)]
pub(in crate::images) enum Verdict {
    Accept,
    Reject(String),
    /// One of these must have signed it.
    Signed(Vec<PublicKey>),
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    #[default]
    Accept,
    Reject,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PolicyFile {
    #[serde(default)]
    default: Action,
    #[serde(default)]
    rules: Vec<RuleFile>,
    #[serde(default)]
    precompiled_keys: Vec<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RuleFile {
    prefix: String,
    keys: Option<Vec<PathBuf>>,
    action: Option<Action>,
}

impl Policy {
    pub(in crate::images) fn read(file: &ConfigFile) -> Result<Policy, String> {
        match file.read()? {
            None => Ok(Policy::default()),
            Some((path, text)) => Policy::parse(&text, path.parent().unwrap_or(Path::new("/")))
                .map_err(|why| format!("{}: {why}", path.display())),
        }
    }

    /// Keys are files; where their path is relative, it is so to `dir`.
    pub(super) fn parse(text: &str, dir: &Path) -> Result<Policy, String> {
        let file: PolicyFile = serde_norway::from_str(text).map_err(|error| error.to_string())?;
        let keys = |paths: &[PathBuf]| {
            paths.iter().map(|path| PublicKey::read(&dir.join(path))).collect::<Result<Vec<_>, _>>()
        };
        let mut rules = Vec::new();
        for rule in file.rules {
            let wrong = |why: &str| Err(format!("the rule for {:?} {why}", rule.prefix));
            let Some(prefix) = Prefix::parse(&rule.prefix) else {
                return wrong("is about no image: a prefix is \"*\", HOST or HOST/PATH, as docker.io/library/hello is");
            };
            let verdict = match (&rule.keys, rule.action) {
                (Some(paths), None) if !paths.is_empty() => Verdict::Signed(keys(paths)?),
                (Some(_), None) => return wrong("has an empty list of keys; `action: reject` refuses every image"),
                (Some(_), Some(_)) => return wrong("has both keys and an action"),
                (None, Some(Action::Accept)) => Verdict::Accept,
                (None, Some(Action::Reject)) => Verdict::Reject(format!("a rule rejects {}", rule.prefix)),
                (None, None) => return wrong("has neither keys nor an action"),
            };
            rules.push(Rule { prefix, verdict });
        }
        Ok(Policy { default: file.default, rules, precompiled: keys(&file.precompiled_keys)? })
    }

    /// The rule with the longest prefix decides.
    pub(in crate::images) fn verdict(&self, name: &ImageName) -> Verdict {
        let home = match home(name.registry()) {
            Ok(home) => home,
            Err(why) => return Verdict::Reject(format!("its registry {} makes no sense: {why}", name.registry())),
        };
        let rule = self
            .rules
            .iter()
            .filter(|rule| rule.prefix.covers(&home, name.path()))
            .max_by_key(|rule| rule.prefix.length());
        match (rule, self.default) {
            (Some(rule), _) => rule.verdict.clone(),
            (None, Action::Accept) => Verdict::Accept,
            (None, Action::Reject) => {
                Verdict::Reject(format!("no rule names {}, and the default is to reject", name.repository()))
            }
        }
    }
}

impl Prefix {
    fn parse(text: &str) -> Option<Prefix> {
        if text == "*" {
            return Some(Prefix::Every);
        }
        let (registry, path) = name::prefix(text)?;
        Some(Prefix::At { home: home(&registry).ok()?, path: path.to_owned() })
    }

    fn covers(&self, asked: &str, repository: &str) -> bool {
        match self {
            Prefix::Every => true,
            Prefix::At { home, path } => {
                let rest = repository.strip_prefix(path.as_str());
                home == asked && (path.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
            }
        }
    }

    /// Of two that cover the same image, the longer one is about fewer.
    fn length(&self) -> usize {
        match self {
            Prefix::Every => 0,
            Prefix::At { home, path } => home.len() + path.len(),
        }
    }
}
