use expect_test::expect;

use super::{check_create, check_update};

#[test]
fn classes() {
    let class = "
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: high}
value: 1000
";
    check_create(
        class,
        expect![[r#"
            preemptionPolicy: PreemptLowerPriority
            value: 1000
        "#]],
    );
    check_update(
        class,
        "",
        "{value: 2000}",
        expect![[r#"
        value: Forbidden: may not be changed in an update.
    "#]],
    );
    check_create(
        "
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: system-mine}
value: 2000000000
",
        expect![[r#"
            metadata.name: Forbidden: only system PriorityClasses may have names with the prefix 'system-'. error: it is not a known system priority class
        "#]],
    );
    let runtime = "
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: wasm}
handler: wasm
";
    check_update(
        runtime,
        "",
        "{handler: runc}",
        expect![[r#"
        handler: Invalid value: "runc": field is immutable
    "#]],
    );
}

#[test]
fn roles_and_bindings() {
    check_create(
        "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: r, namespace: ns}
rules:
- {apiGroups: [''], resources: [pods], verbs: [get]}
- {resources: [pods], verbs: []}
- {nonResourceURLs: [/x], verbs: [get]}
",
        expect![[r#"
            rules[1].verbs: Required value: verbs must contain at least one value
            rules[1].apiGroups: Required value: resource rules must supply at least one api group
            rules[2].nonResourceURLs: Invalid value: ["/x"]: namespaced rules cannot apply to non-resource URLs
        "#]],
    );
    let binding = "
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: b, namespace: ns}
roleRef: {kind: Role, name: r}
subjects: [{kind: User, name: jane}, {kind: ServiceAccount, name: default}]
";
    check_create(
        binding,
        expect![[r#"
            roleRef:
              apiGroup: rbac.authorization.k8s.io
              kind: Role
              name: r
            subjects:
            - apiGroup: rbac.authorization.k8s.io
              kind: User
              name: jane
            - kind: ServiceAccount
              name: default
        "#]],
    );
    check_update(
        binding,
        "",
        "{roleRef: {name: other}}",
        expect![[r#"
        roleRef: Invalid value: {"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"other"}: cannot change roleRef
    "#]],
    );
    check_create(
        "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: b}
roleRef: {kind: Role, name: r}
subjects: [{kind: Robot, name: jane}, {kind: ServiceAccount, name: default}]
",
        expect![[r#"
            roleRef.kind: Unsupported value: "Role": supported values: "ClusterRole"
            subjects[0].kind: Unsupported value: "Robot": supported values: "ServiceAccount", "User", "Group"
            subjects[1].namespace: Required value
        "#]],
    );
}

#[test]
fn what_bounds_a_namespace() {
    check_create(
        "
apiVersion: v1
kind: ResourceQuota
metadata: {name: q, namespace: ns}
spec: {hard: {pods: 1500m, cpu: -1, bananas: 3, example.com/gpu: 1}, scopes: [BestEffort, NotBestEffort]}
",
        expect![[r#"
            spec.hard[bananas]: Invalid value: "bananas": must be a standard resource type or fully qualified
            spec.hard[bananas]: Invalid value: "bananas": must be a standard resource for quota
            spec.hard[cpu]: Invalid value: "-1": must be greater than or equal to 0
            spec.hard[pods]: Invalid value: "1500m": must be an integer
            spec.scopes: Invalid value: ["BestEffort","NotBestEffort"]: unsupported scope applied to resource
            spec.scopes: Invalid value: ["BestEffort","NotBestEffort"]: conflicting scopes
        "#]],
    );
    check_create(
        "
apiVersion: v1
kind: LimitRange
metadata: {name: l, namespace: ns}
spec: {limits: [{type: Container, max: {cpu: 2}, min: {cpu: 100m}}]}
",
        expect![[r#"
            spec:
              limits:
              - default:
                  cpu: '2'
                defaultRequest:
                  cpu: '2'
                max:
                  cpu: '2'
                min:
                  cpu: 100m
                type: Container
        "#]],
    );
    check_create(
        "
apiVersion: v1
kind: LimitRange
metadata: {name: l, namespace: ns}
spec: {limits: [{type: Pod, max: {cpu: 1}, min: {cpu: 2}, default: {cpu: 1}}, {type: PersistentVolumeClaim}]}
",
        expect![[r#"
            spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'
            spec.limits[0].min[cpu]: Invalid value: "2": min value 2 is greater than max value 1
            spec.limits[1].limits: Required value: either minimum or maximum storage value is required, but neither was provided
        "#]],
    );
    check_create(
        "
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: p, namespace: ns}
spec: {minAvailable: 150%, maxUnavailable: -1}
",
        expect![[r#"
            spec: Invalid value: {"maxUnavailable":-1,"minAvailable":"150%"}: minAvailable and maxUnavailable cannot be both set
            spec.minAvailable: Invalid value: "150%": must not be greater than 100%
            spec.maxUnavailable: Invalid value: -1: must be greater than or equal to 0
        "#]],
    );
}

#[test]
fn definitions_and_services_of_apis() {
    let definition = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: things, kind: Thing}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]
";
    check_create(
        definition,
        expect![[r#"
            spec:
              conversion:
                strategy: None
              group: example.com
              names:
                kind: Thing
                listKind: ThingList
                plural: things
                singular: thing
              scope: Namespaced
              versions:
              - name: v1
                schema:
                  openAPIV3Schema:
                    type: object
                served: true
                storage: true
            status:
              storedVersions:
              - v1
        "#]],
    );
    check_update(
        definition,
        "",
        "{spec: {group: example.org, versions: []}}",
        expect![[r#"
        metadata.name: Invalid value: "things.example.com": must be spec.names.plural+"."+spec.group
        spec.versions: Required value: must have at least one version
        spec.group: Invalid value: "example.org": field is immutable
    "#]],
    );
    check_create(
        "
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1.example.org}
spec: {group: example.com, version: v1, groupPriorityMinimum: 0, versionPriority: 1}
",
        expect![[r#"
            metadata.name: Invalid value: "v1.example.org": must be `spec.version+"."+spec.group`: "v1.example.com"
            spec.groupPriorityMinimum: Invalid value: 0: must be positive and less than 20000
        "#]],
    );
}

#[test]
fn signing_requests() {
    let request = "
apiVersion: certificates.k8s.io/v1
kind: CertificateSigningRequest
metadata: {name: r}
spec:
  request: LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0K
  signerName: example.com/signer
  usages: [client auth]
  username: someone-else
";
    check_create(
        request,
        expect![[r#"
            spec:
              groups:
              - devs
              request: LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0K
              signerName: example.com/signer
              uid: u1
              usages:
              - client auth
              username: jane
        "#]],
    );
    check_update(
        request,
        "",
        "{spec: {username: root}}",
        expect![[r#"
        unchanged
    "#]],
    );
    check_update(
        request,
        "approval",
        "{status: {conditions: [{type: Approved, status: 'False'}]}}",
        expect![[r#"
        status.conditions[0].status: Unsupported value: "False": supported values: "True"
    "#]],
    );
}
