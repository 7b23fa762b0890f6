use expect_test::expect;

use super::{check_create, check_update, created};

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: ns}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: x}]}
";

#[test]
fn deployment_defaults() {
    check_create(
        DEPLOYMENT,
        expect![[r#"
            spec:
              progressDeadlineSeconds: 600
              replicas: 1
              revisionHistoryLimit: 10
              selector:
                matchLabels:
                  app: web
              strategy:
                rollingUpdate:
                  maxSurge: 25%
                  maxUnavailable: 25%
                type: RollingUpdate
              template:
                metadata:
                  labels:
                    app: web
                spec:
                  containers:
                  - image: x
                    imagePullPolicy: Always
                    name: c
                    resources: {}
                    terminationMessagePath: /dev/termination-log
                    terminationMessagePolicy: File
                  dnsPolicy: ClusterFirst
                  restartPolicy: Always
                  schedulerName: default-scheduler
                  securityContext: {}
                  terminationGracePeriodSeconds: 30
        "#]],
    );
}

#[test]
fn deployment_faults() {
    check_create(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: ns}
spec:
  replicas: -1
  progressDeadlineSeconds: 5
  minReadySeconds: 5
  strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 0%}}
  template: {spec: {restartPolicy: Never}}
",
        expect![[r#"
            spec.replicas: Invalid value: -1: must be greater than or equal to 0
            spec.selector: Required value
            spec.template.metadata.labels: Invalid value: {}: `selector` does not match template `labels`
            spec.template.spec.containers: Required value
            spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"
            spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "0%": may not be 0 when `maxSurge` is 0
            spec.progressDeadlineSeconds: Invalid value: 5: must be greater than minReadySeconds
        "#]],
    );
    check_create(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: ns}
spec:
  selector: {matchLabels: {app: web}}
  strategy: {type: Recreate, rollingUpdate: {maxSurge: 1}}
  template:
    metadata: {labels: {app: other}}
    spec: {containers: [{name: c, image: x}]}
",
        expect![[r#"
            spec.template.metadata.labels: Invalid value: {"app":"other"}: `selector` does not match template `labels`
            spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'
        "#]],
    );
}

#[test]
fn deployments_that_change() {
    check_update(
        DEPLOYMENT,
        "",
        "{spec: {selector: {matchLabels: {b: c}}}}",
        expect![[r#"
        spec.template.metadata.labels: Invalid value: {"app":"web"}: `selector` does not match template `labels`
        spec.selector: Invalid value: {"matchLabels":{"app":"web","b":"c"}}: field is immutable
    "#]],
    );
    check_update(
        DEPLOYMENT,
        "",
        "{spec: {replicas: 3}, status: {replicas: 7}}",
        expect![[r#"
        changed
    "#]],
    );
    check_update(
        DEPLOYMENT,
        "",
        "{status: {replicas: 7}}",
        expect![[r#"
        unchanged
    "#]],
    );
    check_update(
        DEPLOYMENT,
        "status",
        "{spec: {replicas: 3}, status: {replicas: 1, readyReplicas: 2}}",
        expect![[r#"
        status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas
    "#]],
    );
}

#[test]
fn replica_sets_and_controllers() {
    check_create(
        "
apiVersion: v1
kind: ReplicationController
metadata: {name: old, namespace: ns}
spec:
  template:
    metadata: {labels: {app: old}}
    spec: {containers: [{name: c, image: x}], activeDeadlineSeconds: 3}
",
        expect![[r#"
            spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicationController is not Supported
        "#]],
    );
    check_create(
        "
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: web, namespace: ns}
spec: {}
",
        expect![[r#"
            spec.selector: Required value
            spec.template.metadata.labels: Invalid value: {}: `selector` does not match template `labels`
            spec.template.spec.containers: Required value
        "#]],
    );
}

const SET: &str = "
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: ns}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {terminationGracePeriodSeconds: 5, containers: [{name: c, image: 'x:1'}]}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
";

#[test]
fn stateful_sets() {
    check_create(
        SET,
        expect![[r#"
            spec:
              persistentVolumeClaimRetentionPolicy:
                whenDeleted: Retain
                whenScaled: Retain
              podManagementPolicy: OrderedReady
              replicas: 1
              revisionHistoryLimit: 10
              selector:
                matchLabels:
                  app: db
              serviceName: db
              template:
                metadata:
                  labels:
                    app: db
                spec:
                  containers:
                  - image: x:1
                    imagePullPolicy: IfNotPresent
                    name: c
                    resources: {}
                    terminationMessagePath: /dev/termination-log
                    terminationMessagePolicy: File
                  dnsPolicy: ClusterFirst
                  restartPolicy: Always
                  schedulerName: default-scheduler
                  securityContext: {}
                  terminationGracePeriodSeconds: 5
              updateStrategy:
                rollingUpdate:
                  partition: 0
                type: RollingUpdate
              volumeClaimTemplates:
              - apiVersion: v1
                kind: PersistentVolumeClaim
                metadata:
                  name: data
                spec:
                  accessModes:
                  - ReadWriteOnce
                  resources:
                    requests:
                      storage: 1Gi
                  volumeMode: Filesystem
                status:
                  phase: Pending
        "#]],
    );
}

#[test]
fn stateful_sets_that_change() {
    check_update(
        SET,
        "",
        "{spec: {replicas: 2, serviceName: other}}",
        expect![[r#"
        spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden
    "#]],
    );
    check_update(
        SET,
        "",
        "{spec: {replicas: 2, updateStrategy: {rollingUpdate: {partition: 1}}}}",
        expect![[r#"
        changed
    "#]],
    );
}

#[test]
fn daemon_sets() {
    check_create(
        "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: d, namespace: ns}
spec:
  selector: {matchLabels: {app: d}}
  updateStrategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 1}}
  template:
    metadata: {labels: {app: d}}
    spec: {containers: [{name: c, image: x}]}
",
        expect![[r#"
            spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero
        "#]],
    );
}

const JOB: &str = "
apiVersion: batch/v1
kind: Job
metadata: {name: once, namespace: ns}
spec:
  template:
    metadata: {labels: {app: once}}
    spec: {restartPolicy: Never, containers: [{name: c, image: x}]}
";

#[test]
fn jobs() {
    check_create(
        JOB,
        expect![[r#"
            spec:
              backoffLimit: 6
              completionMode: NonIndexed
              completions: 1
              manualSelector: false
              parallelism: 1
              podReplacementPolicy: TerminatingOrFailed
              selector:
                matchLabels:
                  batch.kubernetes.io/controller-uid: uid
              suspend: false
              template:
                metadata:
                  labels:
                    app: once
                    batch.kubernetes.io/controller-uid: uid
                    batch.kubernetes.io/job-name: once
                    controller-uid: uid
                    job-name: once
                spec:
                  containers:
                  - image: x
                    imagePullPolicy: Always
                    name: c
                    resources: {}
                    terminationMessagePath: /dev/termination-log
                    terminationMessagePolicy: File
                  dnsPolicy: ClusterFirst
                  restartPolicy: Never
                  schedulerName: default-scheduler
                  securityContext: {}
                  terminationGracePeriodSeconds: 30
        "#]],
    );
}

#[test]
fn jobs_that_change() {
    check_update(
        JOB,
        "",
        "{spec: {completions: 3, template: {spec: {hostNetwork: true}}}}",
        expect![[r#"
        spec.completions: Invalid value: 3: field is immutable
        spec.template: Invalid value: {"metadata":{"labels":{"app":"once","batch.kubernetes.io/controller-uid":"uid","batch.kubernetes.io/job-name":"once","controller-uid":"uid","job-name":"once"}},"spec":{"containers":[{"image":"x","imagePullPolicy":"Always","name":"c","resources":{},"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File"}],"dnsPolicy":"ClusterFirst","hostNetwork":true,"restartPolicy":"Never","schedulerName":"default-scheduler","securityContext":{},"terminationGracePeriodSeconds":30}}: field is immutable
    "#]],
    );
    check_update(
        JOB,
        "",
        "{spec: {parallelism: 3, suspend: true}}",
        expect![[r#"
        changed
    "#]],
    );
    check_create(
        "
apiVersion: batch/v1
kind: Job
metadata: {name: once, namespace: ns}
spec:
  completionMode: Indexed
  parallelism: -1
  selector: {matchLabels: {a: b}}
  template: {spec: {containers: [{name: c, image: x}]}}
",
        expect![[r#"
            spec.selector: Invalid value: {"matchLabels":{"a":"b"}}: `selector` not auto-generated
            spec.parallelism: Invalid value: -1: must be greater than or equal to 0
            spec.completions: Required value: when completion mode is Indexed
            spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"
            spec.template.metadata.labels: Invalid value: {"batch.kubernetes.io/controller-uid":"uid","batch.kubernetes.io/job-name":"once","controller-uid":"uid","job-name":"once"}: `selector` does not match template `labels`
        "#]],
    );
}

#[test]
fn cron_jobs() {
    let with = |schedule: &str| {
        format!(
            "
apiVersion: batch/v1
kind: CronJob
metadata: {{name: nightly, namespace: ns}}
spec:
  schedule: '{schedule}'
  jobTemplate: {{spec: {{template: {{spec: {{restartPolicy: OnFailure, containers: [{{name: c, image: x}}]}}}}}}}}
"
        )
    };
    let schedules = [
        "*/5 0-12 1,15 jan-DEC sun",
        "@hourly",
        "@every 1h30m",
        "* * * *",
        "60 * * * *",
        "* * 0 * *",
        "5-1 * * * *",
        "*/0 * * * *",
        "x * * * *",
        "@often",
        "@every x",
        "TZ=UTC 0 0 * * *",
    ];
    let out: String =
        schedules.map(|s| format!("{s} -> {}\n", created(&with(s)).err().unwrap_or_default().trim_end())).concat();
    expect![[r#"
        */5 0-12 1,15 jan-DEC sun -> 
        @hourly -> 
        @every 1h30m -> 
        * * * * -> spec.schedule: Invalid value: "* * * *": expected exactly 5 fields, found 4: [* * * *]
        60 * * * * -> spec.schedule: Invalid value: "60 * * * *": end of range (60) above maximum (59): 60
        * * 0 * * -> spec.schedule: Invalid value: "* * 0 * *": beginning of range (0) below minimum (1): 0
        5-1 * * * * -> spec.schedule: Invalid value: "5-1 * * * *": beginning of range (5) beyond end of range (1): 5-1
        */0 * * * * -> spec.schedule: Invalid value: "*/0 * * * *": step of range should be a positive number: */0
        x * * * * -> spec.schedule: Invalid value: "x * * * *": failed to parse int from x: strconv.Atoi: parsing "x": invalid syntax
        @often -> spec.schedule: Invalid value: "@often": unrecognized descriptor: @often
        @every x -> spec.schedule: Invalid value: "@every x": failed to parse duration @every x: time: invalid duration "x"
        TZ=UTC 0 0 * * * -> spec.schedule: Invalid value: "TZ=UTC 0 0 * * *": cannot use TZ or CRON_TZ in schedule, use timeZone field instead
    "#]].assert_eq(&out);
}

#[test]
fn autoscalers() {
    check_create(
        "
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web, namespace: ns}
spec: {maxReplicas: 3, scaleTargetRef: {kind: Deployment, name: web, apiVersion: apps/v1}, behavior: {scaleUp: {}}}
",
        expect![[r#"
            spec:
              behavior:
                scaleUp:
                  policies:
                  - periodSeconds: 15
                    type: Pods
                    value: 4
                  - periodSeconds: 15
                    type: Percent
                    value: 100
                  selectPolicy: Max
                  stabilizationWindowSeconds: 0
              maxReplicas: 3
              metrics:
              - resource:
                  name: cpu
                  target:
                    averageUtilization: 80
                    type: Utilization
                type: Resource
              minReplicas: 1
              scaleTargetRef:
                apiVersion: apps/v1
                kind: Deployment
                name: web
        "#]],
    );
    check_create(
        "
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web, namespace: ns}
spec:
  minReplicas: 5
  maxReplicas: 3
  scaleTargetRef: {kind: Deployment, name: ''}
  metrics: [{type: Pods, resource: {name: cpu, target: {type: Odd}}}]
",
        expect![[r#"
            spec.maxReplicas: Invalid value: 3: must be greater than or equal to `minReplicas`
            spec.scaleTargetRef.name: Required value
            spec.metrics[0].pods: Required value: must populate information for the given metric source
            spec.metrics[0].resource: Forbidden: must populate the given metric source only
        "#]],
    );
}
