//! Kinds that are stored, validated and served, and that nothing in this release acts upon. Whoever writes one is told so,
//! for a cluster that takes a Job and never runs it leaves its user in the dark. One table: whoever adds the controller (or
//! the admission, or the node's part) takes its line out.

/// What does not happen, for whoever writes such an object; None for kinds that work.
pub fn effect(group: &str, plural: &str) -> Option<&'static str> {
    TABLE.iter().find(|(of, kinds, _)| *of == group && kinds.contains(&plural)).map(|(.., effect)| *effect)
}

type Line = (&'static str, &'static [&'static str], &'static str);

const TABLE: &[Line] = &[
    ("apps", &["statefulsets", "daemonsets"], "no controller creates its pods"),
    ("batch", &["jobs"], "no controller creates its pods"),
    ("batch", &["cronjobs"], "no controller creates its jobs"),
    ("autoscaling", &["horizontalpodautoscalers"], "no controller scales its target"),
    ("", &["resourcequotas"], "usage is neither counted nor limited"),
    ("", &["persistentvolumes", "persistentvolumeclaims"], "no controller binds or provisions volumes"),
    (
        "storage.k8s.io",
        &["storageclasses", "csidrivers", "volumeattachments"],
        "no controller provisions or attaches volumes",
    ),
    ("networking.k8s.io", &["networkpolicies"], "traffic is not restricted"),
    ("networking.k8s.io", &["ingresses", "ingressclasses"], "no ingress controller comes with the cluster"),
    ("networking.k8s.io", &["servicecidrs", "ipaddresses"], "service addresses come from --service-cidr alone"),
    (
        "admissionregistration.k8s.io",
        &["mutatingwebhookconfigurations", "validatingwebhookconfigurations"],
        "webhooks are not called",
    ),
    (
        "admissionregistration.k8s.io",
        &[
            "validatingadmissionpolicies",
            "validatingadmissionpolicybindings",
            "mutatingadmissionpolicies",
            "mutatingadmissionpolicybindings",
        ],
        "its rules are not applied to requests",
    ),
    ("apiextensions.k8s.io", &["customresourcedefinitions"], "the kind it defines is not served"),
    ("apiregistration.k8s.io", &["apiservices"], "requests are not passed on to other servers"),
    ("certificates.k8s.io", &["certificatesigningrequests"], "no controller signs certificates"),
    (
        "flowcontrol.apiserver.k8s.io",
        &["flowschemas", "prioritylevelconfigurations"],
        "requests are limited by the server's own rules",
    ),
    (
        "resource.k8s.io",
        &["resourceclaims", "resourceclaimtemplates", "resourceslices", "deviceclasses"],
        "devices are not allocated to pods",
    ),
];

#[cfg(test)]
mod tests {
    use coracle_api::schema::Schema;

    use super::*;

    #[test]
    fn the_table_names_kinds_that_are_served() {
        let served = |group: &str, plural: &str| {
            Schema::v1_36().resources().iter().any(|def| *def.group == *group && *def.plural == *plural)
        };
        for (group, kinds, _) in TABLE {
            for plural in *kinds {
                assert!(served(group, plural), "{plural}.{group} is not served: take it out of the table");
            }
        }
    }
}
