//! Preconditions, atomicity, order of lists, watches from now and from the past.

use expect_test::expect;

use super::script::check;

#[test]
fn preconditions_are_checked_against_the_newest_state() {
    check(
        "create pods default/a v=1
         create pods default/a v=2
         update pods default/a expect=1 v=3
         update pods default/a expect=1 v=4
         update pods default/b expect=1
         delete pods default/a expect=1
         delete pods default/a expect=2 v=5
         delete pods default/a expect=3
         create pods default/a v=6
         get pods default/a",
        expect![[r#"
            ok 1
            pods default/a exists at revision 1
            ok 2
            the object pods default/a is at revision 2
            the object does not exist
            the object pods default/a is at revision 2
            ok 3
            the object does not exist
            ok 4
            default/a@4 v=6
        "#]],
    );
}

#[test]
fn a_commit_of_several_operations_happens_whole_or_not_at_all() {
    check(
        "watch w pods
         create pods default/a v=1 & create pods default/b v=1 & update pods default/a expect=1 v=2
         create pods default/c v=1 & update pods default/b expect=9
         delete pods default/a expect=3 & create pods default/a v=9
         list pods
         drain w",
        expect![[r#"
            ok 1 2 3
            the object pods default/b is at revision 2
            ok 4 5
            at 5 of 2: [default/a@5 v=9, default/b@2 v=1]
            +default/a@1 v=1, +default/b@2 v=1, ~default/a@3 v=2 was 1, -default/a@4 v=0 was 3, +default/a@5 v=9
        "#]],
    );
}

#[test]
fn lists_are_ordered_and_can_begin_anywhere() {
    check(
        "create pods b/x
         create pods a/y
         create pods a/x
         create nodes /n1
         create podsets b/x
         list pods
         list pods ns=a
         list pods ns=b after=a/y
         list pods after=a/x
         list pods after=b/x
         list nodes
         list none",
        expect![[r#"
            ok 1
            ok 2
            ok 3
            ok 4
            ok 5
            at 5 of 3: [a/x@3 v=0, a/y@2 v=0, b/x@1 v=0]
            at 5 of 2: [a/x@3 v=0, a/y@2 v=0]
            at 5 of 1: [b/x@1 v=0]
            at 5 of 3: [a/y@2 v=0, b/x@1 v=0]
            at 5 of 3: []
            at 5 of 1: [/n1@4 v=0]
            at 5 of 0: []
        "#]],
    );
}

#[test]
fn watches_see_their_prefix_only_and_tell_how_far_they_are() {
    check(
        "watch all pods
         watch one pods ns=a
         create pods a/x
         create pods b/x
         create nodes /n1
         progress all
         drain all
         progress all
         drain one
         progress one
         create pods b/y
         progress one
         progress all
         watch late pods from=1
         drain late
         watch future pods from=9",
        expect![[r#"
            ok 1
            ok 2
            ok 3
            0
            +a/x@1 v=0, +b/x@2 v=0
            3
            +a/x@1 v=0
            3
            ok 4
            4
            3
            +b/x@2 v=0, +b/y@4 v=0
            revision 9 is in the future, the current one is 4
        "#]],
    );
}

#[test]
fn labels_and_fields_survive_a_restart() {
    check(
        "create pods default/a v=1 label=app:web
         update pods default/a expect=1 v=2 label=app:web
         create leases.coordination.k8s.io default/l v=3 label=holder:x
         close
         reopen
         get pods default/a
         get leases.coordination.k8s.io default/l",
        expect![[r#"
            ok 1
            ok 2
            ok 3
            default/a@2 v=2 app=web
            default/l@3 v=3 holder=x
        "#]],
    );
}

#[test]
fn closing_ends_watches_behind_what_they_had_not_seen() {
    check(
        "watch w pods
         create pods default/a
         close
         drain w",
        expect![[r#"
            ok 1
            +default/a@1 v=0, ended: true
        "#]],
    );
}
