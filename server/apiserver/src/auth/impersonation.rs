//! Owns acting as somebody else: the `Impersonate-*` headers, each of which needs a permission of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_api::status::Status;
use http::HeaderMap;

use super::authn::{ANONYMOUS, UNAUTHENTICATED};
use super::authz::forbidden;
use super::service_account::split_user;
use crate::hooks::{Attributes, Authorizer, Decision, UserInfo};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// Whom the headers ask to act as, once `user` is found to be allowed to; `None` when they ask nothing.
pub fn impersonate(
    headers: &HeaderMap,
    user: &UserInfo,
    authorizer: &dyn Authorizer,
) -> Result<Option<Arc<UserInfo>>, Status> {
    let Some(wanted) = wanted(headers)? else { return Ok(None) };
    let check = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| {
        let asked = Attributes {
            verb: "impersonate",
            group,
            version: if group.is_empty() { "v1" } else { "" },
            resource,
            subresource,
            namespace,
            name,
            resource_request: true,
            ..Attributes::default()
        };
        match authorizer.authorize(user, &asked) {
            Decision::Allow(_) => Ok(()),
            Decision::NoOpinion(reason) | Decision::Deny(reason) => Err(forbidden(user, &asked, &reason)),
        }
    };
    let account = split_user(&wanted.name);
    match account {
        Some((namespace, name)) => check("", "serviceaccounts", "", namespace, name)?,
        None => check("", "users", "", "", &wanted.name)?,
    }
    for group in &wanted.groups {
        check("", "groups", "", "", group)?;
    }
    if !wanted.uid.is_empty() {
        check("authentication.k8s.io", "uids", "", "", &wanted.uid)?;
    }
    for (key, values) in &wanted.extra {
        for value in values {
            check("authentication.k8s.io", "userextras", key, "", value)?;
        }
    }
    let mut as_user = wanted;
    if let (Some((namespace, _)), true) = (account_of(&as_user), as_user.groups.is_empty()) {
        as_user.groups = vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
    }
    let every = if as_user.name == ANONYMOUS { UNAUTHENTICATED } else { "system:authenticated" };
    if !as_user.in_group("system:authenticated") && !as_user.in_group(UNAUTHENTICATED) {
        as_user.groups.push(every.to_owned());
    }
    Ok(Some(Arc::new(as_user)))
}

fn account_of(user: &UserInfo) -> Option<(String, String)> {
    split_user(&user.name).map(|(namespace, name)| (namespace.to_owned(), name.to_owned()))
}

/// The user the headers describe.
fn wanted(headers: &HeaderMap) -> Result<Option<UserInfo>, Status> {
    let text = |value: &http::HeaderValue| {
        let read = value.to_str().map(str::to_owned);
        read.map_err(|_| Status::bad_request("impersonation headers must be printable ASCII"))
    };
    let all = |name: &str| headers.get_all(name).iter().map(text).collect::<Result<Vec<_>, _>>();
    let one = |name: &str| headers.get(name).map(text).transpose().map(Option::unwrap_or_default);
    let (name, groups, uid) = (one(USER)?, all(GROUP)?, one(UID)?);
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (header, value) in headers {
        if let Some(key) = header.as_str().strip_prefix(EXTRA) {
            let key = crate::http::query::decode(key, false).to_lowercase();
            extra.entry(key).or_default().push(text(value)?);
        }
    }
    if name.is_empty() {
        if groups.is_empty() && uid.is_empty() && extra.is_empty() {
            return Ok(None);
        }
        return Err(Status::bad_request(
            "requested impersonation of groups, uid or extra without impersonating a user",
        ));
    }
    Ok(Some(UserInfo { name, uid, groups, extra }))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use http::{HeaderName, HeaderValue};

    use super::*;
    use crate::hooks::RuleList;

    /// Allows to impersonate what is listed as `resource/name`.
    struct Allowing(&'static [&'static str]);

    impl Authorizer for Allowing {
        fn authorize(&self, _user: &UserInfo, asked: &Attributes<'_>) -> Decision {
            let what = format!("{}/{}", asked.resource, asked.name);
            if self.0.contains(&what.as_str()) {
                Decision::Allow(String::new())
            } else {
                Decision::NoOpinion(String::new())
            }
        }

        fn rules(&self, _user: &UserInfo, _namespace: &str) -> RuleList {
            RuleList::default()
        }
    }

    fn check_impersonation(
        headers: &[(&'static str, &'static str)],
        allowed: &'static [&'static str],
        expected: Expect,
    ) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let result = match impersonate(&map, &UserInfo::new("jane", &[]), &Allowing(allowed)) {
            Ok(None) => "as oneself".to_owned(),
            Ok(Some(user)) => format!("{} {:?} {:?} {:?}", user.name, user.uid, user.groups, user.extra),
            Err(status) => format!("{} {}", status.code, status.message),
        };
        expected.assert_eq(&result);
    }

    #[test]
    fn every_part_of_an_assumed_identity_needs_a_permission() {
        check_impersonation(&[], &[], expect!["as oneself"]);
        check_impersonation(
            &[("impersonate-user", "bob")],
            &[],
            expect![[
                r#"403 users "bob" is forbidden: User "jane" cannot impersonate resource "users" in API group "" at the cluster scope"#
            ]],
        );
        check_impersonation(
            &[("impersonate-user", "bob"), ("impersonate-group", "devs")],
            &["users/bob"],
            expect![[
                r#"403 groups "devs" is forbidden: User "jane" cannot impersonate resource "groups" in API group "" at the cluster scope"#
            ]],
        );
        check_impersonation(
            &[
                ("impersonate-user", "bob"),
                ("impersonate-group", "devs"),
                ("impersonate-extra-acme.com%2fscope", "all"),
                ("impersonate-uid", "7"),
            ],
            &["users/bob", "groups/devs", "userextras/all", "uids/7"],
            expect![[r#"bob "7" ["devs", "system:authenticated"] {"acme.com/scope": ["all"]}"#]],
        );
        check_impersonation(
            &[("impersonate-user", "system:serviceaccount:ns:bot")],
            &["serviceaccounts/bot"],
            expect![[
                r#"system:serviceaccount:ns:bot "" ["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"] {}"#
            ]],
        );
        check_impersonation(
            &[("impersonate-group", "devs")],
            &[],
            expect!["400 requested impersonation of groups, uid or extra without impersonating a user"],
        );
    }
}
