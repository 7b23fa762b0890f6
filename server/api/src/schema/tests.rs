use expect_test::{Expect, expect};

use super::{Schema, TypeId};

fn check_type(name: &str, expected: Expect) {
    let schema = Schema::v1_36();
    let ty = schema.ty(schema.type_named(name).expect("a type of that name"));
    let mut out = String::new();
    for f in &ty.fields {
        let tag = f.proto.map(|t| format!("{:?}/{}", t.outer, t.number)).unwrap_or_default();
        out.push_str(&format!("{} {:?} {tag} {:?} {:?}\n", f.name, f.ty, f.list, f.patch.merge_key));
    }
    for (id, ty) in schema.types() {
        out = out.replace(&format!("{id:?})"), &format!("{})", ty.short_name()));
    }
    expected.assert_eq(&out);
}

#[test]
fn a_type_has_its_fields_with_tags_and_keys() {
    check_type(
        "io.k8s.api.core.v1.ServiceAccount",
        expect![[r#"
            apiVersion String  Atomic None
            automountServiceAccountToken Bool [0, 0]/4 Atomic None
            imagePullSecrets List(Object(LocalObjectReference)) [0, 0]/3 Atomic None
            kind String  Atomic None
            metadata Object(ObjectMeta) [0, 0]/1 Atomic None
            secrets List(Object(ObjectReference)) [0, 0]/2 Map(["name"]) Some("name")
        "#]],
    );
}

fn check_resource(group: &str, version: &str, plural: &str, expected: Expect) {
    let def = Schema::v1_36().resource(group, version, plural).expect("a served resource");
    let subresources: Vec<_> =
        def.subresources.iter().map(|s| format!("{}:{} {:?}", s.name, s.gvk(), s.verbs)).collect();
    expected.assert_eq(&format!(
        "{} {} {} {:?} {:?} namespaced={} {:?}\n{}\n",
        def.storage_name(),
        def.list_kind,
        def.singular,
        def.short_names,
        def.categories,
        def.namespaced,
        def.verbs,
        subresources.join("\n")
    ));
}

#[test]
fn resources_are_served_as_upstream_serves_them() {
    check_resource(
        "apps",
        "v1",
        "deployments",
        expect![[r#"
            deployments.apps DeploymentList deployment ["deploy"] ["all"] namespaced=true ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
            scale:autoscaling/v1, Kind=Scale ["get", "patch", "update"]
            status:apps/v1, Kind=Deployment ["get", "patch", "update"]
        "#]],
    );
    check_resource(
        "",
        "v1",
        "namespaces",
        expect![[r#"
            namespaces NamespaceList namespace ["ns"] [] namespaced=false ["create", "delete", "get", "list", "patch", "update", "watch"]
            finalize:v1, Kind=Namespace ["update"]
            status:v1, Kind=Namespace ["get", "patch", "update"]
        "#]],
    );
}

#[test]
fn every_name_in_the_table_is_found_again() {
    let schema = Schema::v1_36();
    for (id, ty) in schema.types() {
        assert_eq!(schema.type_named(&ty.name), Some(id), "{}", ty.name);
        for field in &ty.fields {
            assert_eq!(ty.field(&field.name).map(|f| &f.name), Some(&field.name));
        }
    }
    for def in schema.resources() {
        assert!(schema.resource(&def.group, &def.version, &def.plural).is_some());
        assert_eq!(schema.type_of_kind(&def.gvk()), Some(def.ty));
        for field in &def.selectable {
            for path in &field.paths {
                let path: Vec<&str> = path.iter().map(|p| &**p).collect();
                assert!(schema.field_at(def.ty, &path).is_some(), "{} selects by {path:?}", def.plural);
            }
        }
    }
}

#[test]
fn a_schema_made_at_run_time_sees_the_built_in_types() {
    let base = Schema::v1_36();
    let schema = Schema::extend(base, |first| {
        assert_eq!(first, TypeId(u32::try_from(base.types.len()).unwrap()));
        vec![super::TypeDef {
            name: "com.example.v1.Thing".into(),
            fields: Box::default(),
            atomic: false,
            exact: true,
            preserves_unknown: true,
        }]
    });
    let own = schema.type_named("com.example.v1.Thing").unwrap();
    assert_eq!(schema.ty(own).short_name(), "Thing");
    assert_eq!(schema.ty(schema.meta_type("ObjectMeta").unwrap()).short_name(), "ObjectMeta");
}
