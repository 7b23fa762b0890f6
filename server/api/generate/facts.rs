//! What swagger does not tell about resources, by hand from upstream's registry.

pub(crate) struct Fact {
    pub(crate) group: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) short_names: &'static [&'static str],
    pub(crate) categories: &'static [&'static str],
    /// `name` when the selector's name is the field's path, else `name=path` or `name=path|path if empty`.
    pub(crate) selectable: &'static [&'static str],
}

const fn fact(
    group: &'static str,
    plural: &'static str,
    short_names: &'static [&'static str],
    categories: &'static [&'static str],
    selectable: &'static [&'static str],
) -> Fact {
    Fact { group, plural, short_names, categories, selectable }
}

const ALL: &[&str] = &["all"];
const EXT: &[&str] = &["api-extensions"];
const NONE: &[&str] = &[];
const CERTS: &str = "certificates.k8s.io";
const ADMISSION: &str = "admissionregistration.k8s.io";

pub(crate) const FACTS: &[Fact] = &[
    fact("", "componentstatuses", &["cs"], NONE, NONE),
    fact("", "configmaps", &["cm"], NONE, NONE),
    fact("", "endpoints", &["ep"], NONE, NONE),
    fact(
        "",
        "events",
        &["ev"],
        NONE,
        &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source=source.component|reportingComponent",
            "type",
        ],
    ),
    fact("", "limitranges", &["limits"], NONE, NONE),
    fact("", "namespaces", &["ns"], NONE, &["status.phase"]),
    fact("", "nodes", &["no"], NONE, &["spec.unschedulable"]),
    fact("", "persistentvolumeclaims", &["pvc"], NONE, NONE),
    fact("", "persistentvolumes", &["pv"], NONE, NONE),
    fact(
        "",
        "pods",
        &["po"],
        ALL,
        &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
    ),
    fact("", "replicationcontrollers", &["rc"], ALL, &["status.replicas"]),
    fact("", "resourcequotas", &["quota"], NONE, NONE),
    fact("", "secrets", NONE, NONE, &["type"]),
    fact("", "serviceaccounts", &["sa"], NONE, NONE),
    fact("", "services", &["svc"], ALL, &["spec.clusterIP", "spec.type"]),
    fact(ADMISSION, "mutatingwebhookconfigurations", NONE, EXT, NONE),
    fact(ADMISSION, "validatingwebhookconfigurations", NONE, EXT, NONE),
    fact(ADMISSION, "validatingadmissionpolicies", NONE, EXT, NONE),
    fact(ADMISSION, "validatingadmissionpolicybindings", NONE, EXT, NONE),
    fact(ADMISSION, "mutatingadmissionpolicies", NONE, EXT, NONE),
    fact(ADMISSION, "mutatingadmissionpolicybindings", NONE, EXT, NONE),
    fact("apiextensions.k8s.io", "customresourcedefinitions", &["crd", "crds"], EXT, NONE),
    fact("apiregistration.k8s.io", "apiservices", NONE, EXT, NONE),
    fact("apps", "daemonsets", &["ds"], ALL, NONE),
    fact("apps", "deployments", &["deploy"], ALL, NONE),
    fact("apps", "replicasets", &["rs"], ALL, &["status.replicas"]),
    fact("apps", "statefulsets", &["sts"], ALL, NONE),
    fact("autoscaling", "horizontalpodautoscalers", &["hpa"], ALL, NONE),
    fact("batch", "cronjobs", &["cj"], ALL, NONE),
    fact("batch", "jobs", NONE, ALL, &["status.successful=status.succeeded"]),
    fact(CERTS, "certificatesigningrequests", &["csr"], NONE, &["spec.signerName"]),
    fact(
        "events.k8s.io",
        "events",
        &["ev"],
        NONE,
        &[
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reason",
            "reportingController",
            "type",
        ],
    ),
    fact("networking.k8s.io", "ingresses", &["ing"], NONE, NONE),
    fact("networking.k8s.io", "ipaddresses", &["ip"], NONE, NONE),
    fact("networking.k8s.io", "networkpolicies", &["netpol"], NONE, NONE),
    fact("policy", "poddisruptionbudgets", &["pdb"], NONE, NONE),
    fact("resource.k8s.io", "resourceslices", NONE, NONE, &["spec.nodeName", "spec.driver"]),
    fact("scheduling.k8s.io", "priorityclasses", &["pc"], NONE, NONE),
    fact("storage.k8s.io", "storageclasses", &["sc"], NONE, NONE),
    fact("storage.k8s.io", "volumeattributesclasses", &["vac"], NONE, NONE),
];

/// The kinds that options of connections have; swagger names the parent's kind.
pub(crate) const CONNECT_KINDS: &[(&str, &str, &str)] = &[
    ("pods", "attach", "PodAttachOptions"),
    ("pods", "exec", "PodExecOptions"),
    ("pods", "portforward", "PodPortForwardOptions"),
    ("pods", "proxy", "PodProxyOptions"),
    ("nodes", "proxy", "NodeProxyOptions"),
    ("services", "proxy", "ServiceProxyOptions"),
];

/// Kinds whose JSON is anything: they have no fields of their own.
pub(crate) const RAW: &[&str] = &[
    "io.k8s.apimachinery.pkg.runtime.RawExtension",
    "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON",
];

/// JSON of either of two shapes, with a protobuf message of its own.
pub(crate) const UNIONS: &[(&str, &str)] = &[
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray", "or-array"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool", "or-bool"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray", "or-strings"),
];

pub(crate) const SCALARS: &[(&str, &str)] = &[
    ("io.k8s.apimachinery.pkg.api.resource.Quantity", "quantity"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime", "microtime"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Time", "time"),
    ("io.k8s.apimachinery.pkg.util.intstr.IntOrString", "int-or-string"),
];

pub(crate) const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// A definition that is a body and no type.
pub(crate) const NOT_A_TYPE: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

/// Types without a protobuf message upstream: they are only ever written as JSON.
pub(crate) const JSON_ONLY: &[&str] = &["io.k8s.apimachinery.pkg.version.Info"];
