//! What was found in a namespace in, its conditions out.

use expect_test::{Expect, expect};
use k8s_openapi::api::core::v1::NamespaceStatus;
use std::fmt::Write as _;

use super::plan::Sweep;
use crate::testing::{ago, now};

fn check_status(sweep: &Sweep, expected: Expect) -> NamespaceStatus {
    let status = sweep.status(None, now());
    let mut out = format!("{} clean={}\n", status.phase.as_deref().unwrap(), sweep.is_clean());
    for c in status.conditions.iter().flatten() {
        let (reason, message) = (c.reason.as_deref().unwrap(), c.message.as_deref().unwrap());
        writeln!(out, "{}={} {reason}: {message}", c.type_, c.status).unwrap();
    }
    expected.assert_eq(&out);
    status
}

#[test]
fn an_empty_namespace_says_so() {
    check_status(
        &Sweep::default(),
        expect![[r#"
        Terminating clean=true
        NamespaceDeletionDiscoveryFailure=False ResourcesDiscovered: All resources successfully discovered
        NamespaceDeletionGroupVersionParsingFailure=False ParsedGroupVersions: All legacy kube types successfully parsed
        NamespaceDeletionContentFailure=False ContentDeleted: All content successfully deleted, may be waiting on finalization
        NamespaceContentRemaining=False ContentRemoved: All content successfully removed
        NamespaceFinalizersRemaining=False ContentHasNoFinalizers: All content-preserving finalizers finished
    "#]],
    );
}

#[test]
fn what_remains_is_named() {
    let sweep = Sweep {
        discovery_error: Some("metrics.k8s.io/v1: stale GroupVersion discovery".into()),
        errors: vec!["b failed".into(), "a failed".into()],
        remaining: [("pods.".to_owned(), 2), ("deployments.apps".to_owned(), 1)].into(),
        finalizers: [("example.com/keep".to_owned(), 1)].into(),
        grace_seconds: 30,
    };
    check_status(
        &sweep,
        expect![[r#"
        Terminating clean=false
        NamespaceDeletionDiscoveryFailure=True DiscoveryFailed: Discovery failed for some groups, 1 failing: metrics.k8s.io/v1: stale GroupVersion discovery
        NamespaceDeletionGroupVersionParsingFailure=False ParsedGroupVersions: All legacy kube types successfully parsed
        NamespaceDeletionContentFailure=True ContentDeletionFailed: Failed to delete all resource types, 2 remaining: a failed, b failed
        NamespaceContentRemaining=True SomeResourcesRemain: Some resources are remaining: deployments.apps has 1 resource instances, pods. has 2 resource instances
        NamespaceFinalizersRemaining=True SomeFinalizersRemain: Some content in the namespace has finalizers remaining: example.com/keep in 1 resource instances
    "#]],
    );
}

#[test]
fn a_condition_that_says_nothing_new_keeps_its_time() {
    let mut before = check_status(
        &Sweep::default(),
        expect![[r#"
        Terminating clean=true
        NamespaceDeletionDiscoveryFailure=False ResourcesDiscovered: All resources successfully discovered
        NamespaceDeletionGroupVersionParsingFailure=False ParsedGroupVersions: All legacy kube types successfully parsed
        NamespaceDeletionContentFailure=False ContentDeleted: All content successfully deleted, may be waiting on finalization
        NamespaceContentRemaining=False ContentRemoved: All content successfully removed
        NamespaceFinalizersRemaining=False ContentHasNoFinalizers: All content-preserving finalizers finished
    "#]],
    );
    before.conditions.iter_mut().flatten().for_each(|c| c.last_transition_time = Some(ago(60)));
    assert_eq!(Sweep::default().status(Some(&before), now()), before);
    let remains = Sweep { remaining: [("pods.".to_owned(), 1)].into(), ..Sweep::default() };
    let after = remains.status(Some(&before), now()).conditions.unwrap();
    let moved: Vec<_> =
        after.iter().filter(|c| c.last_transition_time != Some(ago(60))).map(|c| c.type_.as_str()).collect();
    expect![[r#"["NamespaceContentRemaining"]"#]].assert_eq(&format!("{moved:?}"));
}
