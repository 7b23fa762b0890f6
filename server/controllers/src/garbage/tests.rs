//! An object, its owners and its dependents in, its fate out.

use expect_test::{Expect, expect};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::plan::{Dependent, OwnerState, judge};
use super::{owner_key, state_of};
use crate::testing::{Line, lines};
use coracle_client::ResourceRef;

/// `owners=a,b!` names owners by UID; `!` blocks the owner's deletion.
fn meta(line: &Line) -> ObjectMeta {
    let reference = |text: &str| OwnerReference {
        uid: text.trim_end_matches('!').into(),
        block_owner_deletion: text.ends_with('!').then_some(true),
        ..OwnerReference::default()
    };
    let owners = line.text("owners").map(|o| o.split(',').map(reference).collect());
    let finalizers = line.text("finalizers").map(|f| f.split(',').map(str::to_owned).collect());
    ObjectMeta { owner_references: owners, finalizers, ..line.meta() }
}

/// `item` is judged; `owner` lines say what is known of its owners; `dep` lines are its dependents.
fn check_fate(text: &str, expected: Expect) {
    let lines = lines(text);
    let item = meta(lines.iter().find(|l| l.kind == "item").unwrap());
    let dependents: Vec<_> = lines.iter().filter(|l| l.kind == "dep").map(meta).collect();
    let views: Vec<_> = dependents.iter().map(|meta| Dependent { meta }).collect();
    let owner = |reference: &OwnerReference| {
        let line = lines.iter().find(|l| l.kind == "owner" && l.name == reference.uid);
        match line {
            None => OwnerState::Absent,
            Some(line) if line.has("unknowable") => OwnerState::Unknowable,
            Some(line) => state_of(&meta(line), reference),
        }
    };
    expected.assert_eq(&judge(&item, owner, &views).to_string());
}

#[test]
fn background_deletion_follows_the_last_owner() {
    check_fate("item pod owners=rs; owner rs", expect!["keep"]);
    check_fate("item pod owners=rs", expect!["delete Background"]);
    check_fate("item pod owners=rs; owner rs uid=another", expect!["delete Background"]);
    check_fate("item pod owners=rs,other; owner other", expect!["disown rs"]);
    check_fate("item pod", expect!["keep"]);
    check_fate("item pod owners=rs deleting", expect!["keep"]);
}

#[test]
fn nothing_is_concluded_from_what_cannot_be_known() {
    check_fate("item pod owners=rs,widget; owner widget unknowable", expect!["keep"]);
    // An owner in a namespace cannot own what is in none.
    let deployments = ResourceRef::new("apps", "v1", "deployments", "Deployment", true);
    let reference = OwnerReference { name: "web".into(), ..OwnerReference::default() };
    assert!(owner_key(&deployments, &reference, &ObjectMeta::default()).is_none());
    let namespaced = ObjectMeta { namespace: Some("shop".into()), ..ObjectMeta::default() };
    expect!["shop/web"].assert_eq(&owner_key(&deployments, &reference, &namespaced).unwrap().to_string());
}

#[test]
fn an_objects_own_finalizers_say_how_it_goes() {
    check_fate("item rs owners=web finalizers=orphan", expect!["delete Orphan"]);
    check_fate("item rs owners=web finalizers=foregroundDeletion", expect!["delete Foreground"]);
}

#[test]
fn foreground_deletion_goes_from_the_leaves_up() {
    check_fate(
        "item rs owners=web!; owner web deleting finalizers=foregroundDeletion; dep pod owners=rs!",
        expect!["delete Foreground"],
    );
    check_fate("item pod owners=rs!; owner rs deleting finalizers=foregroundDeletion", expect!["delete Background"]);
    check_fate("item rs deleting finalizers=foregroundDeletion; dep pod owners=rs!", expect!["keep"]);
    check_fate(
        "item rs deleting finalizers=foregroundDeletion; dep pod owners=rs",
        expect!["release foregroundDeletion"],
    );
    check_fate("item rs deleting finalizers=foregroundDeletion", expect!["release foregroundDeletion"]);
    check_fate(
        "item pod owners=rs,keeper; owner rs deleting finalizers=foregroundDeletion; owner keeper",
        expect!["disown rs"],
    );
}

#[test]
fn a_circle_of_waiting_owners_is_broken() {
    check_fate(
        "item a owners=b!; owner b deleting finalizers=foregroundDeletion; dep b owners=a! deleting finalizers=foregroundDeletion",
        expect!["unblock and delete Foreground"],
    );
}

#[test]
fn orphaning_comes_before_all_else() {
    check_fate("item rs deleting finalizers=orphan owners=web; dep pod owners=rs!", expect!["orphan dependents"]);
}
