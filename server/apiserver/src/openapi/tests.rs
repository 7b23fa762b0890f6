use std::io::Read as _;

use coracle_api::schema::Schema;
use expect_test::{Expect, expect};

use super::*;

fn openapi() -> OpenApi {
    OpenApi::new("v1.36.0", Arc::new(|| Schema::v1_36().resources().to_vec()))
}

fn plain(which: &Document) -> Vec<u8> {
    let mut plain = Vec::new();
    let document = openapi().document(which).unwrap();
    flate2::read::GzDecoder::new(document.gzip.as_ref()).read_to_end(&mut plain).unwrap();
    plain
}

fn json(which: &Document) -> Value {
    serde_json::from_slice(&plain(which)).unwrap()
}

fn v3(group: &str, version: &str) -> Value {
    json(&Document::V3(group.to_owned(), version.to_owned()))
}

/// Cuts long texts, so that snapshots show structure.
fn shorten(value: &mut Value) {
    match value {
        Value::String(text) if text.len() > 40 && !text.starts_with('#') => {
            let cut: String = text.chars().take(40).collect();
            *text = format!("{cut}…");
        }
        Value::Array(items) => items.iter_mut().for_each(shorten),
        Value::Object(fields) => fields.values_mut().for_each(shorten),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn check_part(document: &Value, pointer: &str, expected: Expect) {
    let mut part = document.pointer(pointer).unwrap_or(&Value::Null).clone();
    shorten(&mut part);
    expected.assert_eq(&serde_json::to_string_pretty(&part).unwrap());
}

#[test]
fn a_field_says_how_it_is_merged() {
    let core = v3("", "v1");
    check_part(
        &core,
        "/components/schemas/io.k8s.api.core.v1.ServiceSpec/properties/ports",
        expect![[r##"
            {
              "description": "The list of ports that are exposed by th…",
              "items": {
                "$ref": "#/components/schemas/io.k8s.api.core.v1.ServicePort"
              },
              "type": "array",
              "x-kubernetes-list-map-keys": [
                "port",
                "protocol"
              ],
              "x-kubernetes-list-type": "map",
              "x-kubernetes-patch-merge-key": "port",
              "x-kubernetes-patch-strategy": "merge"
            }"##]],
    );
}

#[test]
fn a_kind_says_what_it_is_and_has() {
    let core = v3("", "v1");
    check_part(
        &core,
        "/components/schemas/io.k8s.api.core.v1.ConfigMap",
        expect![[r##"
            {
              "description": "ConfigMap holds configuration data for p…",
              "properties": {
                "apiVersion": {
                  "description": "APIVersion defines the versioned schema …",
                  "type": "string"
                },
                "binaryData": {
                  "additionalProperties": {
                    "format": "byte",
                    "type": "string"
                  },
                  "description": "BinaryData contains the binary data. Eac…",
                  "type": "object"
                },
                "data": {
                  "additionalProperties": {
                    "type": "string"
                  },
                  "description": "Data contains the configuration data. Ea…",
                  "type": "object"
                },
                "immutable": {
                  "description": "Immutable, if set to true, ensures that …",
                  "type": "boolean"
                },
                "kind": {
                  "description": "Kind is a string value representing the …",
                  "type": "string"
                },
                "metadata": {
                  "allOf": [
                    {
                      "$ref": "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
                    }
                  ],
                  "description": "Standard object's metadata. More info: h…"
                }
              },
              "type": "object",
              "x-kubernetes-group-version-kind": [
                {
                  "group": "",
                  "kind": "ConfigMap",
                  "version": "v1"
                }
              ]
            }"##]],
    );
}

#[test]
fn a_patch_says_that_it_takes_field_validation() {
    let apps = v3("apps", "v1");
    let patch = &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    let names: Vec<&str> =
        patch["parameters"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    expect!["dryRun fieldManager fieldValidation force"].assert_eq(&names.join(" "));
    expect![[r#"{"group":"apps","kind":"Deployment","version":"v1"} patchAppsV1NamespacedDeployment apps_v1"#]]
        .assert_eq(&format!(
            "{} {} {}",
            patch["x-kubernetes-group-version-kind"],
            patch["operationId"].as_str().unwrap(),
            patch["tags"][0].as_str().unwrap()
        ));
}

#[test]
fn every_operation_has_a_name_of_its_own() {
    let document = json(&Document::V2Json);
    let mut ids = Vec::new();
    for (_, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if method != "parameters" {
                ids.push(operation["operationId"].as_str().unwrap().to_owned());
            }
        }
    }
    ids.sort();
    let all = ids.len();
    ids.dedup();
    assert_eq!(all, ids.len());
    let wanted = [
        "listCoreV1PodForAllNamespaces",
        "listCoreV1NamespacedPod",
        "deleteCoreV1CollectionNamespacedPod",
        "replaceCoreV1NodeStatus",
        "createCoreV1NamespacedPodEviction",
        "readAppsV1NamespacedDeploymentScale",
        "connectGetCoreV1NamespacedPodExec",
        "createRbacAuthorizationV1ClusterRole",
    ];
    for id in wanted {
        assert!(ids.iter().any(|own| own == id), "{id}");
    }
}

#[test]
fn every_reference_leads_to_a_definition() {
    fn walk(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    match value {
                        Value::String(text) if key == "$ref" => found.push(text.clone()),
                        other => walk(other, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let mut documents: Vec<(Value, &str, &str)> = vec![(json(&Document::V2Json), "#/definitions/", "/definitions")];
    for path in openapi().index().into_keys() {
        let (group, version) = group_version_of(&path).unwrap();
        documents.push((v3(&group, &version), "#/components/schemas/", "/components/schemas"));
    }
    for (document, prefix, place) in documents {
        let mut references = Vec::new();
        walk(&document, &mut references);
        assert!(!references.is_empty());
        let definitions = document.pointer(place).unwrap();
        for reference in references {
            let name = reference.strip_prefix(prefix).unwrap();
            assert!(definitions.get(name).is_some(), "{reference}");
        }
    }
}

#[test]
fn every_served_kind_is_described() {
    // kubectl explain shows these.
    let document = json(&Document::V2Json);
    for (name, definition) in document["definitions"].as_object().unwrap() {
        let is_kind = definition.get("x-kubernetes-group-version-kind").is_some();
        assert!(!is_kind || definition.get("description").is_some(), "{name}");
    }
}

#[test]
fn the_index_names_each_document_with_its_hash() {
    let index = openapi().index();
    let paths: Vec<&str> = index.keys().map(String::as_str).take(4).collect();
    expect!["api/v1 apis/admissionregistration.k8s.io/v1 apis/apiextensions.k8s.io/v1 apis/apiregistration.k8s.io/v1"]
        .assert_eq(&paths.join(" "));
    let document = openapi().document(&Document::V3("apps".to_owned(), "v1".to_owned())).unwrap();
    assert_eq!(document.hash, index["apis/apps/v1"]);
    assert!(openapi().document(&Document::V3("none".to_owned(), "v1".to_owned())).is_none());
}

/// Reads protobuf back without its descriptor: field numbers and lengths.
fn fields(mut bytes: &[u8]) -> Vec<(u64, &[u8])> {
    let mut found = Vec::new();
    let varint = |bytes: &mut &[u8]| {
        let (mut value, mut shift) = (0u64, 0);
        loop {
            let (first, rest) = bytes.split_first().unwrap();
            *bytes = rest;
            value |= u64::from(first & 0x7f) << shift;
            shift += 7;
            if first & 0x80 == 0 {
                return value;
            }
        }
    };
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        if key & 7 == 0 {
            varint(&mut bytes);
            found.push((key >> 3, &bytes[..0]));
        } else {
            let length = varint(&mut bytes) as usize;
            found.push((key >> 3, &bytes[..length]));
            bytes = &bytes[length..];
        }
    }
    found
}

fn field(bytes: &[u8], number: u64) -> &[u8] {
    fields(bytes).into_iter().find(|(own, _)| *own == number).unwrap().1
}

#[test]
fn the_protobuf_form_holds_the_same_paths_and_definitions() {
    let (json, protobuf) = (json(&Document::V2Json), plain(&Document::V2Protobuf));
    assert_eq!(field(&protobuf, 1), b"2.0");
    let names = |part: &[u8], number: u64| -> Vec<String> {
        let all = fields(part).into_iter().filter(|(own, _)| *own == number);
        let mut names: Vec<String> =
            all.map(|(_, entry)| String::from_utf8(field(entry, 1).to_vec()).unwrap()).collect();
        names.sort();
        names
    };
    let keys = |place: &str| -> Vec<String> { json[place].as_object().unwrap().keys().cloned().collect() };
    assert_eq!(names(field(&protobuf, 8), 2), keys("paths"));
    assert_eq!(names(field(&protobuf, 9), 1), keys("definitions"));
    let pod = fields(field(&protobuf, 9)).into_iter().find(|(_, entry)| field(entry, 1) == b"io.k8s.api.core.v1.Pod");
    let schema = field(pod.unwrap().1, 2);
    let kind = field(field(schema, 31), 2);
    expect![[r#"[{"group":"","kind":"Pod","version":"v1"}]"#]].assert_eq(std::str::from_utf8(field(kind, 2)).unwrap());
}
