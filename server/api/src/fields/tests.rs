use expect_test::expect;

use super::{FieldError, FieldPath};

#[test]
fn errors_are_worded_as_upstream_words_them() {
    let spec = FieldPath::new("spec");
    let containers = spec.child("containers");
    let first = containers.index(0);
    let name = first.child("name");
    let metadata = FieldPath::new("metadata");
    let labels = metadata.child("labels");
    let errors = [
        FieldError::required(&name, ""),
        FieldError::required(&name, "must be given"),
        FieldError::invalid(&name, "a\"b", "is odd"),
        FieldError::invalid(&first, serde_json::json!({"a": 1}), "x"),
        FieldError::invalid(&spec.child("replicas"), -1, "must be greater than or equal to 0"),
        FieldError::not_supported(&spec.child("restartPolicy"), "Sometimes", &["Always", "Never"]),
        FieldError::duplicate(&name, "a"),
        FieldError::forbidden(&spec, "updates to it are forbidden"),
        FieldError::not_found(&name, "a"),
        FieldError::too_long(&labels.key("app"), 63),
        FieldError::too_many(&containers, 3, 1),
    ];
    let out: String = errors.iter().map(|e| format!("{e} ({})\n", e.kind.reason())).collect();
    expect![[r#"
        spec.containers[0].name: Required value (FieldValueRequired)
        spec.containers[0].name: Required value: must be given (FieldValueRequired)
        spec.containers[0].name: Invalid value: "a\"b": is odd (FieldValueInvalid)
        spec.containers[0]: Invalid value: {"a":1}: x (FieldValueInvalid)
        spec.replicas: Invalid value: -1: must be greater than or equal to 0 (FieldValueInvalid)
        spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "Never" (FieldValueNotSupported)
        spec.containers[0].name: Duplicate value: "a" (FieldValueDuplicate)
        spec: Forbidden: updates to it are forbidden (FieldValueForbidden)
        spec.containers[0].name: Not found: "a" (FieldValueNotFound)
        metadata.labels[app]: Too long: may not be more than 63 bytes (FieldValueTooLong)
        spec.containers: Too many: 3: must have at most 1 item (FieldValueTooMany)
    "#]]
    .assert_eq(&out);
}
