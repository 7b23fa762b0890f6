//! Probes and lifecycle hooks.

use coracle_api::fields::{FieldError, FieldPath};
use coracle_api::names;
use k8s_openapi::api::core::v1::{
    Container, ExecAction, GRPCAction, HTTPGetAction, LifecycleHandler, PodSpec, Probe, SleepAction, TCPSocketAction,
};

use super::super::check::{self, text};
use super::super::kind::Errors;

/// What a probe or a hook does.
struct Handler<'a> {
    exec: Option<&'a ExecAction>,
    http_get: Option<&'a HTTPGetAction>,
    tcp_socket: Option<&'a TCPSocketAction>,
    grpc: Option<&'a GRPCAction>,
    sleep: Option<&'a SleepAction>,
}

/// All probes and hooks of a container that may have them.
pub(super) fn validate(container: &Container, spec: &PodSpec, at: &FieldPath<'_>, errors: &mut Errors) {
    let grace = spec.termination_grace_period_seconds;
    if let Some(lifecycle) = &container.lifecycle {
        for (field, hook) in
            [("lifecycle.postStart", &lifecycle.post_start), ("lifecycle.preStop", &lifecycle.pre_stop)]
        {
            if let Some(hook) = hook {
                handler(&of_hook(hook), grace, &at.child(field), errors);
            }
        }
    }
    if let Some(one) = &container.liveness_probe {
        probe(one, &at.child("livenessProbe"), errors);
        succeeds_at_once(one, &at.child("livenessProbe"), errors);
    }
    if let Some(one) = &container.readiness_probe {
        probe(one, &at.child("readinessProbe"), errors);
        if let Some(seconds) = one.termination_grace_period_seconds {
            let path = at.child("readinessProbe.terminationGracePeriodSeconds");
            errors.push(FieldError::invalid(&path, seconds, "must not be set for readinessProbes"));
        }
    }
    if let Some(one) = &container.startup_probe {
        probe(one, &at.child("startupProbe"), errors);
        succeeds_at_once(one, &at.child("startupProbe"), errors);
    }
}

fn succeeds_at_once(probe: &Probe, path: &FieldPath<'_>, errors: &mut Errors) {
    let threshold = probe.success_threshold.unwrap_or_default();
    if threshold != 1 {
        errors.push(FieldError::invalid(&path.child("successThreshold"), threshold, "must be 1"));
    }
}

fn probe(probe: &Probe, path: &FieldPath<'_>, errors: &mut Errors) {
    let does = Handler {
        exec: probe.exec.as_ref(),
        http_get: probe.http_get.as_ref(),
        tcp_socket: probe.tcp_socket.as_ref(),
        grpc: probe.grpc.as_ref(),
        sleep: None,
    };
    handler(&does, None, path, errors);
    check::nonnegative_opt(probe.initial_delay_seconds, &path.child("initialDelaySeconds"), errors);
    check::nonnegative_opt(probe.timeout_seconds, &path.child("timeoutSeconds"), errors);
    check::nonnegative_opt(probe.period_seconds, &path.child("periodSeconds"), errors);
    check::nonnegative_opt(probe.success_threshold, &path.child("successThreshold"), errors);
    check::nonnegative_opt(probe.failure_threshold, &path.child("failureThreshold"), errors);
    if let Some(seconds) = probe.termination_grace_period_seconds.filter(|seconds| *seconds <= 0) {
        let path = path.child("terminationGracePeriodSeconds");
        errors.push(FieldError::invalid(&path, seconds, check::NOT_POSITIVE));
    }
}

fn of_hook(hook: &LifecycleHandler) -> Handler<'_> {
    Handler {
        exec: hook.exec.as_ref(),
        http_get: hook.http_get.as_ref(),
        tcp_socket: hook.tcp_socket.as_ref(),
        grpc: None,
        sleep: hook.sleep.as_ref(),
    }
}

fn handler(handler: &Handler<'_>, grace: Option<i64>, path: &FieldPath<'_>, errors: &mut Errors) {
    let given = [
        ("exec", handler.exec.is_some()),
        ("httpGet", handler.http_get.is_some()),
        ("tcpSocket", handler.tcp_socket.is_some()),
        ("grpc", handler.grpc.is_some()),
        ("sleep", handler.sleep.is_some()),
    ];
    let mut given = given.into_iter().filter(|(_, given)| *given).map(|(name, _)| name);
    if given.next().is_none() {
        errors.push(FieldError::required(path, "must specify a handler type"));
        return;
    }
    for second in given {
        errors.push(FieldError::forbidden(&path.child(second), "may not specify more than 1 handler type"));
    }
    if let Some(exec) = handler.exec
        && exec.command.as_ref().is_none_or(Vec::is_empty)
    {
        errors.push(FieldError::required(&path.child("exec.command"), ""));
    }
    if let Some(http) = handler.http_get {
        let here = path.child("httpGet");
        check::required_text(text(&http.path), &here.child("path"), errors);
        check::port_or_name(&http.port, &here.child("port"), errors);
        let scheme = text(&http.scheme);
        if !["HTTP", "HTTPS"].contains(&scheme) {
            errors.push(FieldError::not_supported(&here.child("scheme"), scheme, &["HTTP", "HTTPS"]));
        }
        for header in http.http_headers.iter().flatten() {
            let wrong = names::http_header_name(&header.name);
            check::problems(wrong, &here.child("httpHeaders"), &header.name, errors);
        }
    }
    if let Some(tcp) = handler.tcp_socket {
        check::port_or_name(&tcp.port, &path.child("tcpSocket.port"), errors);
    }
    if let Some(grpc) = handler.grpc {
        check::port_number(grpc.port, &path.child("grpc.port"), errors);
    }
    if let (Some(sleep), Some(grace)) = (handler.sleep, grace)
        && !(0..=grace).contains(&sleep.seconds)
    {
        let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errors.push(FieldError::invalid(&path.child("sleep"), sleep.seconds, detail));
    }
}
