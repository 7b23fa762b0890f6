use expect_test::expect;

use super::super::tests::{check_create, check_update, check_update_from, created};

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: ns}
spec:
  containers:
  - {name: c, image: x, resources: {limits: {cpu: 1, memory: 1Gi}}, ports: [{containerPort: 80}], livenessProbe: {httpGet: {port: 80}}}
  - {name: d, image: 'localhost:5000/y:1.2', env: [{name: A, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]}
  volumes:
  - {name: a}
  - {name: t, projected: {sources: [{serviceAccountToken: {path: token}}]}}
  serviceAccountName: default
  tolerations: [{key: a, operator: Exists, effect: NoExecute}]
";

#[test]
fn defaults_of_a_pod() {
    check_create(
        POD,
        expect![[r#"
            spec:
              containers:
              - image: x
                imagePullPolicy: Always
                livenessProbe:
                  failureThreshold: 3
                  httpGet:
                    path: /
                    port: 80
                    scheme: HTTP
                  periodSeconds: 10
                  successThreshold: 1
                  timeoutSeconds: 1
                name: c
                ports:
                - containerPort: 80
                  protocol: TCP
                resources:
                  limits:
                    cpu: '1'
                    memory: 1Gi
                  requests:
                    cpu: '1'
                    memory: 1Gi
                terminationMessagePath: /dev/termination-log
                terminationMessagePolicy: File
              - env:
                - name: A
                  valueFrom:
                    fieldRef:
                      apiVersion: v1
                      fieldPath: status.podIP
                image: localhost:5000/y:1.2
                imagePullPolicy: IfNotPresent
                name: d
                resources: {}
                terminationMessagePath: /dev/termination-log
                terminationMessagePolicy: File
              dnsPolicy: ClusterFirst
              enableServiceLinks: true
              restartPolicy: Always
              schedulerName: default-scheduler
              securityContext: {}
              serviceAccount: default
              serviceAccountName: default
              terminationGracePeriodSeconds: 30
              tolerations:
              - effect: NoExecute
                key: a
                operator: Exists
              volumes:
              - emptyDir: {}
                name: a
              - name: t
                projected:
                  defaultMode: 420
                  sources:
                  - serviceAccountToken:
                      expirationSeconds: 3600
                      path: token
            status:
              phase: Pending
              qosClass: Burstable
        "#]],
    );
}

#[test]
fn host_ports_follow_container_ports_on_the_host_network() {
    check_create(
        "
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: ns}
spec:
  hostNetwork: true
  schedulingGates: [{name: example.com/wait}]
  containers: [{name: c, image: x@sha256:00, ports: [{containerPort: 80}]}]
  volumes: [{name: b, configMap: {name: m}}]
",
        expect![[r#"
            spec:
              containers:
              - image: x@sha256:00
                imagePullPolicy: IfNotPresent
                name: c
                ports:
                - containerPort: 80
                  hostPort: 80
                  protocol: TCP
                resources: {}
                terminationMessagePath: /dev/termination-log
                terminationMessagePolicy: File
              dnsPolicy: ClusterFirst
              enableServiceLinks: true
              hostNetwork: true
              restartPolicy: Always
              schedulerName: default-scheduler
              schedulingGates:
              - name: example.com/wait
              securityContext: {}
              terminationGracePeriodSeconds: 30
              volumes:
              - configMap:
                  defaultMode: 420
                  name: m
                name: b
            status:
              conditions:
              - lastTransitionTime: 2026-01-01T00:00:00Z
                message: Scheduling is blocked due to non-empty scheduling gates
                reason: SchedulingGated
                status: 'False'
                type: PodScheduled
              phase: Pending
              qosClass: BestEffort
        "#]],
    );
}

#[test]
fn class_of_service() {
    let with = |resources: &str| {
        format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: p, namespace: ns}}
spec: {{containers: [{{name: c, image: x, resources: {resources}}}]}}
"
        )
    };
    let class = |resources: &str| {
        let object = created(&with(resources)).expect("a valid pod");
        object.field(&["status", "qosClass"]).unwrap_or_default().to_owned()
    };
    assert_eq!(class("{}"), "BestEffort");
    assert_eq!(class("{limits: {cpu: 1}}"), "Burstable");
    assert_eq!(class("{requests: {memory: 1}}"), "Burstable");
    assert_eq!(class("{limits: {cpu: 1, memory: 1Gi}}"), "Guaranteed");
    assert_eq!(class("{limits: {cpu: 1, memory: 1Gi}, requests: {cpu: 500m}}"), "Burstable");
}

#[test]
fn faults_of_containers() {
    check_create(
        "
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: ns}
spec:
  containers:
  - {name: C, image: ' x', imagePullPolicy: Sometimes, ports: [{containerPort: 70000, name: a}, {containerPort: 1, name: a, protocol: X}]}
  - {name: d, terminationMessagePolicy: X, env: [{name: A=B}, {name: A, value: x, valueFrom: {fieldRef: {fieldPath: spec.foo}}}, {name: B, valueFrom: {fieldRef: {fieldPath: status.phase}}}]}
  - {name: d, image: x, resources: {requests: {cpu: 2, x: 1}, limits: {cpu: 1, memory: -1}}}
  - {name: e, image: x, livenessProbe: {successThreshold: 2}, readinessProbe: {exec: {}, tcpSocket: {port: 0}}, envFrom: [{}]}
  - {name: f, image: x, volumeMounts: [{name: none, mountPath: /a}, {name: v, mountPath: /a, subPath: ../x}], lifecycle: {preStop: {sleep: {seconds: 99}}}}
  initContainers:
  - {name: e, image: x, livenessProbe: {tcpSocket: {port: 1}}}
  - {name: s, image: x, restartPolicy: Always, livenessProbe: {tcpSocket: {port: 1}}}
  ephemeralContainers: [{name: z, image: x}]
  volumes: [{name: v, emptyDir: {}}]
",
        expect![[r#"
            spec.containers[0].name: Invalid value: "C": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive
            spec.containers[0].ports[1].name: Duplicate value: "a"
            spec.containers[0].ports[1].protocol: Unsupported value: "X": supported values: "SCTP", "TCP", "UDP"
            spec.containers[0].imagePullPolicy: Unsupported value: "Sometimes": supported values: "Always", "IfNotPresent", "Never"
            spec.containers[1].image: Required value
            spec.containers[1].terminationMessagePolicy: Unsupported value: "X": supported values: "File", "FallbackToLogsOnError"
            spec.containers[1].env[0].name: Invalid value: "A=B": a valid environment variable name must consist only of printable ASCII characters other than '='
            spec.containers[1].env[1].valueFrom.fieldRef.fieldPath: Invalid value: "spec.foo": error converting fieldPath: field label not supported: spec.foo
            spec.containers[1].env[1].valueFrom: Invalid value: "": may not be specified when `value` is not empty
            spec.containers[1].env[2].valueFrom.fieldRef.fieldPath: Unsupported value: "status.phase": supported values: "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"
            spec.containers[2].resources.limits[memory]: Invalid value: "-1": must be greater than or equal to 0
            spec.containers[2].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1
            spec.containers[2].resources.requests[memory]: Invalid value: "-1": must be greater than or equal to 0
            spec.containers[2].resources.requests[x]: Invalid value: "x": must be a standard resource type or fully qualified
            spec.containers[2].resources.requests[x]: Invalid value: "x": must be a standard resource for containers
            spec.containers[2].name: Duplicate value: "d"
            spec.containers[3].envFrom: Invalid value: "": must specify one of: `configMapRef` or `secretRef`
            spec.containers[3].livenessProbe: Required value: must specify a handler type
            spec.containers[3].livenessProbe.successThreshold: Invalid value: 2: must be 1
            spec.containers[3].readinessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type
            spec.containers[3].readinessProbe.exec.command: Required value
            spec.containers[3].readinessProbe.tcpSocket.port: Invalid value: 0: must be between 1 and 65535, inclusive
            spec.containers[4].volumeMounts[0].name: Not found: "none"
            spec.containers[4].volumeMounts[1].mountPath: Invalid value: "/a": must be unique
            spec.containers[4].volumeMounts.subPath: Invalid value: "../x": must not contain '..'
            spec.containers[4].lifecycle.preStop.sleep: Invalid value: 99: must be non-negative and less than terminationGracePeriodSeconds (30)
            spec.initContainers[0].name: Duplicate value: "e"
            spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always
            spec.containers[0].image: Invalid value: " x": must not have leading or trailing whitespace
            spec.ephemeralContainers: Forbidden: cannot be set on create
        "#]],
    );
}

#[test]
fn faults_of_a_spec() {
    check_create(
        "
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: ns, annotations: {kubernetes.io/config.mirror: x, controller.kubernetes.io/pod-deletion-cost: '01'}}
spec:
  containers: []
  restartPolicy: Sometimes
  dnsPolicy: None
  nodeName: N
  hostname: a.b
  activeDeadlineSeconds: 0
  nodeSelector: {a b: c}
  runtimeClassName: W
  hostUsers: false
  hostPID: true
  shareProcessNamespace: true
  securityContext: {runAsUser: -1, sysctls: [{name: X}], seccompProfile: {type: Localhost}, supplementalGroupsPolicy: Odd}
  hostAliases: [{ip: x}]
  schedulingGates: [{name: a}, {name: a}]
  readinessGates: [{conditionType: a b}]
  os: {name: linux}
  overhead: {cpu: -1}
",
        expect![[r#"
            metadata.annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value: "01": must be a 32bit integer
            spec.containers: Required value
            spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never"
            spec.nodeSelector: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive
            spec.securityContext.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled
            spec.securityContext.sysctls[0].name: Invalid value: "X": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$
            spec.securityContext.supplementalGroupsPolicy: Unsupported value: "Odd": supported values: "Merge", "Strict"
            spec.securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost
            spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None
            spec.readinessGates[0].conditionType: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            spec.schedulingGates[1]: Duplicate value: "a"
            spec.HostPID: Forbidden: when `pod.Spec.HostUsers` is false
            spec.nodeName: Invalid value: "N": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            spec.runtimeClassName: Invalid value: "W": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            spec.hostname: Invalid value: "a.b": must not contain dots
            spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive
            spec.hostAliases[0].ip: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)
            spec.overhead.limits[cpu]: Invalid value: "-1": must be greater than or equal to 0
            spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared
        "#]],
    );
}

#[test]
fn faults_of_volumes() {
    check_create(
        "
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: ns}
spec:
  containers: [{name: c, image: x}]
  volumes:
  - {name: a, emptyDir: {}, hostPath: {path: /}}
  - {name: B, hostPath: {path: /a/../b, type: Odd}}
  - {name: c, secret: {defaultMode: 01000, items: [{key: k, path: /abs}]}}
  - {name: c, configMap: {items: [{key: '', path: ..x}]}}
  - {name: d, downwardAPI: {items: [{path: a}, {path: b, fieldRef: {fieldPath: spec.nodeName}}, {path: c, resourceFieldRef: {resource: limits.cpu}}]}}
  - {name: e, projected: {sources: [{configMap: {name: m, items: [{key: a, path: p}]}}, {secret: {name: s, items: [{key: a, path: p}]}}, {serviceAccountToken: {expirationSeconds: 1}}]}}
  - {name: f, persistentVolumeClaim: {claimName: ''}}
  - {name: g, nfs: {path: rel}}
  - {name: h, ephemeral: {volumeClaimTemplate: {spec: {}}}}
",
        expect![[r#"
            spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type
            spec.volumes[1].hostPath.path: Invalid value: "/a/../b": must not contain '..'
            spec.volumes[1].hostPath.type: Unsupported value: "Odd": supported values: "", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"
            spec.volumes[1].name: Invalid value: "B": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            spec.volumes[2].secret.secretName: Required value
            spec.volumes[2].secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive
            spec.volumes[2].secret.items[0].path: Invalid value: "/abs": must be a relative path
            spec.volumes[3].configMap.name: Required value
            spec.volumes[3].configMap.items[0].key: Required value
            spec.volumes[3].configMap.items[0].path: Invalid value: "..x": must not start with '..'
            spec.volumes[4].downwardAPI: Required value: one of fieldRef and resourceFieldRef is required
            spec.volumes[4].downwardAPI.fieldRef.fieldPath: Unsupported value: "spec.nodeName": supported values: "metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"
            spec.volumes[4].downwardAPI.resourceFieldRef.containerName: Required value
            spec.volumes[5].projected: Invalid value: "s": conflicting duplicate paths
            spec.volumes[5].projected.sources[2].serviceAccountToken.expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes
            spec.volumes[5].projected.path: Required value
            spec.volumes[6].persistentVolumeClaim.claimName: Required value
            spec.volumes[7].nfs.server: Required value
            spec.volumes[7].nfs.path: Invalid value: "rel": must be an absolute path
            spec.volumes[8].ephemeral.volumeClaimTemplate.spec.accessModes: Required value: at least 1 access mode is required
            spec.volumes[8].ephemeral.volumeClaimTemplate.spec.resources[storage]: Required value
            spec.volumes[5].projected.sources[2].serviceAccountToken: Forbidden: must not be specified when serviceAccountName is not set
        "#]],
    );
}

#[test]
fn faults_of_scheduling() {
    check_create(
        "
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: ns}
spec:
  containers: [{name: c, image: x}]
  tolerations:
  - {value: v}
  - {key: a, operator: Exists, value: v, tolerationSeconds: 1}
  - {key: a, operator: Odd, effect: Odd}
  affinity:
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: []}
      preferredDuringSchedulingIgnoredDuringExecution: [{weight: 0, preference: {matchExpressions: [{key: a, operator: In}, {key: b, operator: Gt}, {key: c, operator: Odd}]}}]
    podAntiAffinity:
      requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: '', namespaces: [A], matchLabelKeys: [x]}]
  topologySpreadConstraints:
  - {maxSkew: 0, topologyKey: zone, whenUnsatisfiable: Odd, minDomains: 2}
  - {maxSkew: 1, topologyKey: zone, whenUnsatisfiable: Odd, nodeTaintsPolicy: Odd}
",
        expect![[r#"
            spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have at least one node selector term
            spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 0: must be in the range 1-100
            spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'
            spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[1].values: Required value: must be specified single value when `operator` is 'Lt' or 'Gt'
            spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[2].operator: Invalid value: "Odd": not a valid selector operator
            spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].namespace: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].matchLabelKeys: Forbidden: must not be specified when labelSelector is not set
            spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Required value: can not be empty
            spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Invalid value: "": name part must be non-empty
            spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Invalid value: "": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than 0
            spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: "Odd": supported values: "DoNotSchedule", "ScheduleAnyway"
            spec.topologySpreadConstraints[0].minDomains: Invalid value: 2: can only use minDomains if whenUnsatisfiable=DoNotSchedule, not Odd
            spec.topologySpreadConstraints[1].whenUnsatisfiable: Unsupported value: "Odd": supported values: "DoNotSchedule", "ScheduleAnyway"
            spec.topologySpreadConstraints[1].{topologyKey, whenUnsatisfiable}: Duplicate value: "{zone, Odd}"
            spec.topologySpreadConstraints[1].nodeTaintsPolicy: Unsupported value: "Odd": supported values: "Honor", "Ignore"
            spec.tolerations[0].operator: Invalid value: "": operator must be Exists when `key` is empty, which means "match all values and all keys"
            spec.tolerations[1].effect: Invalid value: "": effect must be 'NoExecute' when `tolerationSeconds` is set
            spec.tolerations[1].operator: Invalid value: "v": value must be empty when `operator` is 'Exists'
            spec.tolerations[2].operator: Unsupported value: "Odd": supported values: "Equal", "Exists"
            spec.tolerations[2].effect: Unsupported value: "Odd": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"
        "#]],
    );
}

#[test]
fn what_an_update_may_change() {
    check_update(
        POD,
        "",
        "{metadata: {labels: {a: b}}}",
        expect![[r#"
        changed
    "#]],
    );
    check_update(
        POD,
        "",
        "{spec: {activeDeadlineSeconds: 5}}",
        expect![[r#"
        changed
    "#]],
    );
    check_update(
        POD,
        "",
        "{spec: {tolerations: [{key: a, operator: Exists, effect: NoExecute, tolerationSeconds: 3}, {key: b, operator: Exists}]}}",
        expect![[r#"
        changed
    "#]],
    );
    check_update(
        POD,
        "",
        "{spec: {tolerations: [{key: b, operator: Exists}]}}",
        expect![[r#"
        spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds
    "#]],
    );
    check_update(
        POD,
        "",
        "{spec: {containers: [{name: c, image: x}]}}",
        expect![[r#"
        spec.containers: Forbidden: pod updates may not add or remove containers
    "#]],
    );
    check_update(
        POD,
        "",
        "{spec: {nodeName: n, hostname: h, restartPolicy: Never}}",
        expect![[r#"
        spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)
          spec.restartPolicy: "Always" -> "Never"
          spec.hostname: null -> "h"
          spec.nodeName: null -> "n"
    "#]],
    );
    check_update(
        POD,
        "",
        "{spec: {serviceAccount: default}, status: {phase: Running}}",
        expect![[r#"
        unchanged
    "#]],
    );
}

#[test]
fn what_subresources_may_change() {
    check_update(
        POD,
        "binding",
        "{spec: {nodeName: n}}",
        expect![[r#"
        changed
    "#]],
    );
    check_update(
        POD,
        "ephemeralcontainers",
        "{spec: {ephemeralContainers: [{name: debug, image: x}]}}",
        expect![[r#"
        changed
    "#]],
    );
    check_update(
        POD,
        "ephemeralcontainers",
        "{spec: {ephemeralContainers: [{name: c, image: x, ports: [{containerPort: 1}]}]}}",
        expect![[r#"
        spec.ephemeralContainers[0].name: Duplicate value: "c"
        spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container
    "#]],
    );
    check_update(
        POD,
        "resize",
        "{spec: {hostNetwork: true}}",
        expect![[r#"
        spec: Forbidden: only cpu and memory resources are mutable
    "#]],
    );
    check_update(
        POD,
        "status",
        "{spec: {nodeName: n}, metadata: {ownerReferences: [{name: x}]}, status: {phase: Running, qosClass: null}}",
        expect![[r#"
        changed
    "#]],
    );
    check_update(
        POD,
        "status",
        "{status: {qosClass: BestEffort, hostIP: 1.2.3.4, hostIPs: [{ip: 1.2.3.5}], podIPs: [{ip: 1.1.1.1}, {ip: 1.1.1.1}], conditions: [{type: a b, status: 'True'}]}}",
        expect![[r#"
        metadata.conditions[0].Type: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
        status.qosClass: Invalid value: "BestEffort": field is immutable
        status.podIPs[1]: Duplicate value: {"ip":"1.1.1.1"}
        status.podIPs: Invalid value: ["1.1.1.1","1.1.1.1"]: may specify no more than one IP for each IP family
        status.hostIPs[0].ip: Invalid value: "1.2.3.5": must be equal to `hostIP`
    "#]],
    );
}

#[test]
fn terminated_containers_stay_so() {
    let never = POD.replace("  serviceAccountName", "  restartPolicy: Never\n  serviceAccountName");
    let ended = "{status: {containerStatuses: [{name: c, state: {terminated: {exitCode: 1}}}]}}";
    let running = "{status: {containerStatuses: [{name: c, state: {terminated: null, running: {}}}]}}";
    check_update_from(
        &never,
        ended,
        "status",
        running,
        expect![[r#"
        status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state
    "#]],
    );
    check_update_from(
        POD,
        ended,
        "status",
        running,
        expect![[r#"
        changed
    "#]],
    );
}

#[test]
fn a_gated_pod_may_be_restricted_further() {
    let gated = POD.replace(
        "  serviceAccountName",
        "  schedulingGates: [{name: example.com/wait}]\n  nodeSelector: {a: b}\n  serviceAccountName",
    );
    check_update(
        &gated,
        "",
        "{spec: {nodeSelector: {c: d}, schedulingGates: []}}",
        expect![[r#"
        changed
    "#]],
    );
    check_update(
        &gated,
        "",
        "{spec: {nodeSelector: {a: x}, schedulingGates: [{name: other}]}}",
        expect![[r#"
        spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'other'
        spec.nodeSelector: Invalid value: {"a":"x"}: only additions to spec.nodeSelector are allowed (no mutations or deletions)
    "#]],
    );
}

#[test]
fn only_cpu_and_memory_are_resized() {
    let pod = "
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: ns}
spec: {containers: [{name: c, image: x, resources: {requests: {cpu: 1, memory: 1Gi}, limits: {memory: 2Gi}}}]}
";
    let with = |resources: &str| {
        format!(
            "{{spec: {{containers: [{{name: c, image: x, terminationMessagePath: /dev/termination-log, terminationMessagePolicy: File, imagePullPolicy: Always, resources: {resources}}}]}}}}"
        )
    };
    check_update(
        pod,
        "resize",
        &with("{requests: {cpu: 2, memory: 1Gi}, limits: {memory: 3Gi}}"),
        expect![[r#"
        changed
    "#]],
    );
    check_update(
        pod,
        "resize",
        &with("{requests: {cpu: 2}, limits: {memory: 1Gi}}"),
        expect![[r#"
        spec.containers[0].resources.limits[memory]: Forbidden: memory limits cannot be decreased unless resizePolicy is RestartContainer
    "#]],
    );
}
