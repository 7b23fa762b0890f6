//! Owns what a rule of RBAC allows. Pure: rules and what is asked in, yes or no out.

use serde::{Deserialize, Serialize};

use crate::hooks::Attributes;

const ALL: &str = "*";

/// A PolicyRule of rbac.authorization.k8s.io/v1.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Rule {
    pub verbs: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
}

impl Rule {
    pub fn allows(&self, asked: &Attributes<'_>) -> bool {
        if !has(&self.verbs, asked.verb) {
            return false;
        }
        if asked.resource_request {
            has(&self.api_groups, asked.group)
                && self.names_resource(asked.resource, asked.subresource)
                && (self.resource_names.is_empty() || self.resource_names.iter().any(|name| name == asked.name))
        } else {
            self.non_resource_urls.iter().any(|url| match url.strip_suffix('*') {
                Some(prefix) => asked.path.starts_with(prefix),
                None => url == asked.path,
            })
        }
    }

    fn names_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|rule| {
            if rule == ALL {
                return true;
            }
            match rule.split_once('/') {
                None => subresource.is_empty() && rule == resource,
                Some((left, right)) => {
                    right == subresource && !subresource.is_empty() && (left == ALL || left == resource)
                }
            }
        })
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == ALL || item == wanted)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    /// `rule` as JSON; each question is `verb group/resource[/subresource] [name]` or `verb path`.
    fn check_rule(rule: &str, questions: &[&str], expected: Expect) {
        let rule: Rule = serde_json::from_str(rule).unwrap();
        let mut answers = String::new();
        for question in questions {
            let words: Vec<&str> = question.split(' ').collect();
            let mut asked = Attributes { verb: words[0], ..Attributes::default() };
            if words[1].starts_with('/') {
                asked.path = words[1];
            } else {
                let parts: Vec<&str> = words[1].split('/').collect();
                asked.resource_request = true;
                asked.group = parts[0];
                asked.resource = parts[1];
                asked.subresource = parts.get(2).copied().unwrap_or_default();
                asked.name = words.get(2).copied().unwrap_or_default();
            }
            answers += &format!("{question}: {}\n", rule.allows(&asked));
        }
        expected.assert_eq(&answers);
    }

    #[test]
    fn verbs_groups_resources_and_names_all_have_to_fit() {
        check_rule(
            r#"{"verbs":["get","list"],"apiGroups":["apps"],"resources":["deployments","*/scale"],"resourceNames":["web"]}"#,
            &[
                "get apps/deployments web",
                "get apps/deployments other",
                "list apps/deployments",
                "delete apps/deployments web",
                "get batch/deployments web",
                "get apps/deployments/status web",
                "get apps/statefulsets/scale web",
                "get apps/statefulsets web",
                "get /apis",
            ],
            expect![[r#"
                get apps/deployments web: true
                get apps/deployments other: false
                list apps/deployments: false
                delete apps/deployments web: false
                get batch/deployments web: false
                get apps/deployments/status web: false
                get apps/statefulsets/scale web: true
                get apps/statefulsets web: false
                get /apis: false
            "#]],
        );
    }

    #[test]
    fn a_star_stands_for_everything_of_its_kind() {
        check_rule(
            r#"{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}"#,
            &["create /x", "create v/pods/exec a", "escalate rbac/clusterroles"],
            expect![[r#"
                create /x: false
                create v/pods/exec a: true
                escalate rbac/clusterroles: true
            "#]],
        );
        check_rule(
            r#"{"verbs":["get"],"nonResourceURLs":["/healthz","/apis/*"]}"#,
            &["get /healthz", "get /healthz/etcd", "get /apis", "get /apis/apps", "post /healthz"],
            expect![[r#"
                get /healthz: true
                get /healthz/etcd: false
                get /apis: false
                get /apis/apps: true
                post /healthz: false
            "#]],
        );
    }
}
