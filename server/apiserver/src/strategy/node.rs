//! Nodes.

use coracle_api::fields::{FieldError, FieldPath};
use coracle_api::object::Object;
use k8s_openapi::api::core::v1::{Node, NodeSpec, NodeStatus};

use super::check::{self, Quantities, text};
use super::kind::{Errors, Kind};
use super::{pod, resources};
use crate::registry::context::Context;

const NO_CHANGE: &str = "node updates may not change podCIDR except from \"\" to valid";

pub(super) struct Nodes;

impl Kind for Nodes {
    type Type = Node;

    fn default(&self, node: &mut Node) {
        let spec = node.spec.get_or_insert_default();
        // podCIDR is the first of podCIDRs: whoever sets one of the two means both.
        let first = spec.pod_cidrs.as_ref().and_then(|cidrs| cidrs.first()).cloned();
        match (text(&spec.pod_cidr).to_owned(), first) {
            (single, None) if !single.is_empty() => spec.pod_cidrs = Some(vec![single]),
            (single, Some(first)) if single.is_empty() => spec.pod_cidr = Some(first),
            (_, _) => {}
        }
        if let Some(status) = &mut node.status
            && status.allocatable.is_none()
        {
            status.allocatable = status.capacity.clone();
        }
    }

    /// A node agent registers its node with its status.
    fn prepare_for_create(&self, _context: &Context, _object: &mut Object) {}

    fn validate_create(&self, _context: &Context, node: &Node, errors: &mut Errors) {
        let blank = NodeSpec::default();
        let spec = node.spec.as_ref().unwrap_or(&blank);
        pod::scheduling::taints(spec.taints.as_deref().unwrap_or_default(), &FieldPath::new("metadata.taints"), errors);
        capacities(node, errors);
        let list = FieldPath::new("spec.podCIDRs");
        let cidrs = spec.pod_cidrs.as_deref().unwrap_or_default();
        for (i, cidr) in cidrs.iter().enumerate() {
            check::cidr(cidr, &list.index(i), errors);
            if cidrs[..i].contains(cidr) {
                errors.push(FieldError::duplicate(&list.index(i), cidr));
            }
        }
        let v6 = cidrs.iter().filter(|cidr| cidr.contains(':')).count();
        if v6 > 1 || cidrs.len() - v6 > 1 {
            let detail = "may specify no more than one CIDR for each IP family";
            errors.push(FieldError::invalid(&list, cidrs, detail));
        }
    }

    fn validate_update(&self, _context: &Context, new: &Node, old: &Node, errors: &mut Errors) {
        let blank = NodeSpec::default();
        let (spec, before) = (new.spec.as_ref().unwrap_or(&blank), old.spec.as_ref().unwrap_or(&blank));
        let old_cidrs = before.pod_cidrs.as_deref().unwrap_or_default();
        if !old_cidrs.is_empty() && spec.pod_cidrs.as_deref().unwrap_or_default() != old_cidrs {
            errors.push(FieldError::forbidden(&FieldPath::new("spec.podCIDRs"), NO_CHANGE));
        }
        let path = FieldPath::new("spec.podCIDRs");
        for (i, cidr) in spec.pod_cidrs.iter().flatten().enumerate() {
            check::cidr(cidr, &path.index(i), errors);
        }
        if !text(&before.provider_id).is_empty() && spec.provider_id != before.provider_id {
            let detail = "node updates may not change providerID except from \"\" to valid";
            errors.push(FieldError::forbidden(&FieldPath::new("spec.providerID"), detail));
        }
        pod::scheduling::taints(spec.taints.as_deref().unwrap_or_default(), &FieldPath::new("metadata.taints"), errors);
        if spec.external_id != before.external_id {
            errors.push(FieldError::forbidden(&FieldPath::new("spec.externalID"), "may not be updated"));
        }
    }

    fn validate_status_update(&self, _context: &Context, new: &Node, _old: &Node, errors: &mut Errors) {
        capacities(new, errors);
        let list = FieldPath::new("status.addresses");
        let addresses = new.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
        for (i, address) in addresses.iter().enumerate() {
            if addresses[..i].contains(address) {
                errors.push(FieldError::duplicate(&list.index(i), address));
            }
        }
    }
}

fn capacities(node: &Node, errors: &mut Errors) {
    let blank = NodeStatus::default();
    let status = node.status.as_ref().unwrap_or(&blank);
    let mut check = |field, quantities: &Option<Quantities>| {
        let path = FieldPath::new(field);
        for (name, amount) in quantities.iter().flatten() {
            resources::amount(name, amount, &path.child(name), errors);
        }
    };
    check("status.capacity", &status.capacity);
    check("status.allocatable", &status.allocatable);
}
