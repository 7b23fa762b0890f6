//! `policy.yaml`: which images need whose signature. Read at each pull. A file that cannot be read or understood lets
//! nothing in.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::PublicKey;
use crate::images::ImageName;
use crate::images::registry::ConfigFile;

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
    prefix: String,
    verdict: Verdict,
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
            let verdict = match (&rule.keys, rule.action) {
                (Some(paths), None) if !paths.is_empty() => Verdict::Signed(keys(paths)?),
                (Some(_), None) => return wrong("has an empty list of keys; `action: reject` refuses every image"),
                (Some(_), Some(_)) => return wrong("has both keys and an action"),
                (None, Some(Action::Accept)) => Verdict::Accept,
                (None, Some(Action::Reject)) => Verdict::Reject(format!("a rule rejects {}", rule.prefix)),
                (None, None) => return wrong("has neither keys nor an action"),
            };
            rules.push(Rule { prefix: rule.prefix.trim_end_matches('/').to_owned(), verdict });
        }
        Ok(Policy { default: file.default, rules, precompiled: keys(&file.precompiled_keys)? })
    }

    /// The rule with the longest prefix decides.
    pub(in crate::images) fn verdict(&self, name: &ImageName) -> Verdict {
        let repository = name.repository();
        let covers = |prefix: &str| {
            prefix == "*"
                || repository.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let rule = self
            .rules
            .iter()
            .filter(|rule| covers(&rule.prefix))
            .max_by_key(|rule| if rule.prefix == "*" { 0 } else { rule.prefix.len() });
        match (rule, self.default) {
            (Some(rule), _) => rule.verdict.clone(),
            (None, Action::Accept) => Verdict::Accept,
            (None, Action::Reject) => {
                Verdict::Reject(format!("no rule names {repository}, and the default is to reject"))
            }
        }
    }
}
