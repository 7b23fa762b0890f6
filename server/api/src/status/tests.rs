use expect_test::{Expect, expect};

use super::{Reason, Status};
use crate::fields::{FieldError, FieldPath};
use crate::meta::{GroupKind, GroupResource};

fn check(status: Status, expected: Expect) {
    let json = serde_json::to_string(&status).unwrap();
    expected.assert_eq(&json);
    assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status, "it reads back");
}

#[test]
fn statuses_as_upstream_writes_them() {
    let deployments = GroupResource::new("apps", "deployments");
    check(
        Status::not_found(&deployments, "web"),
        expect![[
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"deployments.apps \"web\" not found","reason":"NotFound","details":{"name":"web","group":"apps","kind":"deployments"},"code":404}"#
        ]],
    );
    check(
        Status::modified(&GroupResource::new("", "pods"), "a"),
        expect![[
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"Operation cannot be fulfilled on pods \"a\": the object has been modified; please apply your changes to the latest version and try again","reason":"Conflict","details":{"name":"a","kind":"pods"},"code":409}"#
        ]],
    );
    let spec = FieldPath::new("spec");
    check(
        Status::invalid(
            &GroupKind::new("apps", "Deployment"),
            "web",
            vec![FieldError::required(&spec.child("selector"), ""), FieldError::required(&spec.child("template"), "")],
        ),
        expect![[
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"Deployment.apps \"web\" is invalid: [spec.selector: Required value, spec.template: Required value]","reason":"Invalid","details":{"name":"web","group":"apps","kind":"Deployment","causes":[{"reason":"FieldValueRequired","message":"Required value","field":"spec.selector"},{"reason":"FieldValueRequired","message":"Required value","field":"spec.template"}]},"code":422}"#
        ]],
    );
    check(
        Status::too_large_resource_version(9, 3, 1),
        expect![[
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"Timeout: Too large resource version: 9, current: 3","reason":"Timeout","details":{"causes":[{"reason":"ResourceVersionTooLarge","message":"Too large resource version"}],"retryAfterSeconds":1},"code":504}"#
        ]],
    );
    check(Status::success(None), expect![[r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Success"}"#]]);
}

#[test]
fn every_reason_reads_back() {
    for reason in Reason::ALL {
        assert_eq!(Reason::parse(reason.as_str()), reason);
    }
    assert_eq!(Reason::parse("NeverHeardOf"), Reason::Unknown);
}
