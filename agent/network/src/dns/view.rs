//! The DNS's facts, straight from the informers.

use std::{net::IpAddr, sync::Arc};

use coracle_api::meta::ObjectKey;
use coracle_client::{Index, Informer};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};

use super::lookup::{Records, service_of};

/// Services and slices, with the indexes that questions need.
#[derive(Clone)]
pub struct View {
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    services_by_address: Index<Service>,
    slices_by_service: Index<EndpointSlice>,
    slices_by_address: Index<EndpointSlice>,
}

impl View {
    pub fn new(services: Informer<Service>, slices: Informer<EndpointSlice>) -> Self {
        let services_by_address = services.index("dns-address", |service| {
            let spec = service.spec.iter();
            spec.flat_map(|spec| spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip)).cloned().collect()
        });
        let slices_by_service =
            slices.index("dns-service", |slice| service_of(slice).map(|key| key.to_string()).into_iter().collect());
        let slices_by_address = slices.index("dns-address", |slice| {
            slice.endpoints.iter().flatten().flat_map(|endpoint| endpoint.addresses.iter().cloned()).collect()
        });
        Self { services, slices, services_by_address, slices_by_service, slices_by_address }
    }

    /// Before this, an absent name says nothing.
    pub(super) fn is_complete(&self) -> bool {
        self.services.is_synced() && self.slices.is_synced()
    }
}

impl Records for View {
    fn service(&self, key: &ObjectKey) -> Option<Arc<Service>> {
        self.services.get(key)
    }

    fn slices(&self, service: &ObjectKey) -> Vec<Arc<EndpointSlice>> {
        self.slices_by_service.get(&service.to_string())
    }

    fn services_at(&self, address: IpAddr) -> Vec<Arc<Service>> {
        self.services_by_address.get(&address.to_string())
    }

    fn slices_at(&self, address: IpAddr) -> Vec<Arc<EndpointSlice>> {
        self.slices_by_address.get(&address.to_string())
    }

    fn has_services_in(&self, namespace: &str) -> bool {
        !self.services.in_namespace(namespace).is_empty()
    }
}
