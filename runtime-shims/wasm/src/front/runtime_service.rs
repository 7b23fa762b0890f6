//! CRI's RuntimeService.

use std::sync::Arc;

use coracle_cri::v1::runtime_service_server::RuntimeService;
use coracle_cri::v1::*;
use coracle_cri::{Request, Response, Status};
use tonic::codegen::BoxStream;

use super::convert;
use super::domain::HANDLERS;
use super::pods::{Pods, lookup_failed};

/// The shim as a CRI server.
pub(super) struct Front(pub(super) Arc<Pods>);

type Answer<T> = Result<Response<T>, Status>;

const NAME: &str = "coracle-wasm";

#[tonic::async_trait]
impl RuntimeService for Front {
    async fn version(&self, _: Request<VersionRequest>) -> Answer<VersionResponse> {
        Ok(Response::new(VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: NAME.to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_api_version: "v1".to_owned(),
        }))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Answer<StatusResponse> {
        let network = self.0.state.lock().addresses.range().is_some();
        let condition = |r#type: &str, status: bool, reason: &str, message: &str| RuntimeCondition {
            r#type: r#type.to_owned(),
            status,
            reason: if status { String::new() } else { reason.to_owned() },
            message: if status { String::new() } else { message.to_owned() },
        };
        let conditions = vec![
            condition("RuntimeReady", true, "", ""),
            condition(
                "NetworkReady",
                network,
                "NetworkPluginNotReady",
                "no pod range is known yet; UpdateRuntimeConfig gives it",
            ),
        ];
        let handler = |name: &str| RuntimeHandler { name: name.to_owned(), features: None };
        Ok(Response::new(StatusResponse {
            status: Some(RuntimeStatus { conditions }),
            info: Default::default(),
            runtime_handlers: std::iter::once("").chain(HANDLERS).map(handler).collect(),
            features: None,
        }))
    }

    async fn update_runtime_config(
        &self,
        request: Request<UpdateRuntimeConfigRequest>,
    ) -> Answer<UpdateRuntimeConfigResponse> {
        let network = request.into_inner().runtime_config.and_then(|config| config.network_config).unwrap_or_default();
        // A dual-stack node names both families; pods get an address of the first that is IPv4.
        let mut ranges = network.pod_cidr.split(',').filter(|text| !text.is_empty()).peekable();
        if ranges.peek().is_none() {
            return Ok(Response::new(UpdateRuntimeConfigResponse {}));
        }
        let range = ranges.find_map(|text| text.trim().parse().ok()).ok_or_else(|| {
            Status::invalid_argument(format!(
                "pod_cidr {:?}: must be an IPv4 range such as 10.42.0.0/24",
                network.pod_cidr
            ))
        })?;
        self.0.set_pod_cidr(range)?;
        Ok(Response::new(UpdateRuntimeConfigResponse {}))
    }

    async fn runtime_config(&self, _: Request<RuntimeConfigRequest>) -> Answer<RuntimeConfigResponse> {
        let linux = LinuxRuntimeConfiguration { cgroup_driver: CgroupDriver::Cgroupfs.into() };
        Ok(Response::new(RuntimeConfigResponse { linux: Some(linux) }))
    }

    async fn get_container_events(&self, _: Request<GetEventsRequest>) -> Answer<BoxStream<ContainerEventResponse>> {
        Ok(Response::new(self.0.events.subscribe()))
    }

    async fn run_pod_sandbox(&self, request: Request<RunPodSandboxRequest>) -> Answer<RunPodSandboxResponse> {
        let RunPodSandboxRequest { config, runtime_handler } = request.into_inner();
        let config = config.ok_or_else(|| Status::invalid_argument("config is required"))?;
        let pod_sandbox_id = self.0.run_sandbox(config, runtime_handler)?;
        Ok(Response::new(RunPodSandboxResponse { pod_sandbox_id }))
    }

    async fn stop_pod_sandbox(&self, request: Request<StopPodSandboxRequest>) -> Answer<StopPodSandboxResponse> {
        self.0.stop_sandbox(&request.get_ref().pod_sandbox_id).await?;
        Ok(Response::new(StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(&self, request: Request<RemovePodSandboxRequest>) -> Answer<RemovePodSandboxResponse> {
        self.0.remove_sandbox(&request.get_ref().pod_sandbox_id).await?;
        Ok(Response::new(RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(&self, request: Request<PodSandboxStatusRequest>) -> Answer<PodSandboxStatusResponse> {
        let state = self.0.state.lock();
        let id = state.sandbox_id(&request.get_ref().pod_sandbox_id).map_err(lookup_failed)?;
        let containers = state.containers_of(&id).into_iter();
        Ok(Response::new(PodSandboxStatusResponse {
            status: Some(convert::sandbox_status(&state.sandboxes[&id])),
            info: Default::default(),
            containers_statuses: containers.map(|container| convert::container_status(&state, container)).collect(),
            timestamp: self.0.config.clock.now(),
        }))
    }

    async fn list_pod_sandbox(&self, request: Request<ListPodSandboxRequest>) -> Answer<ListPodSandboxResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let state = self.0.state.lock();
        let items = state
            .sandboxes
            .values()
            .filter(|sandbox| {
                sandbox.id.starts_with(&filter.id)
                    && filter.state.is_none_or(|wanted| wanted.state() == convert::sandbox_state(sandbox))
                    && convert::matches(&filter.label_selector, || sandbox.config.read().labels)
            })
            .map(convert::sandbox_item)
            .collect();
        Ok(Response::new(ListPodSandboxResponse { items }))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<UpdatePodSandboxResourcesRequest>,
    ) -> Answer<UpdatePodSandboxResourcesResponse> {
        let UpdatePodSandboxResourcesRequest { pod_sandbox_id, overhead, resources } = request.into_inner();
        self.0.set_pod_resources(&pod_sandbox_id, overhead, resources).await?;
        Ok(Response::new(UpdatePodSandboxResourcesResponse {}))
    }

    async fn create_container(&self, request: Request<CreateContainerRequest>) -> Answer<CreateContainerResponse> {
        let CreateContainerRequest { pod_sandbox_id, config, .. } = request.into_inner();
        let config = config.ok_or_else(|| Status::invalid_argument("config is required"))?;
        let container_id = self.0.create_container(&pod_sandbox_id, config).await?;
        Ok(Response::new(CreateContainerResponse { container_id }))
    }

    async fn start_container(&self, request: Request<StartContainerRequest>) -> Answer<StartContainerResponse> {
        self.0.start_container(&request.get_ref().container_id).await?;
        Ok(Response::new(StartContainerResponse {}))
    }

    async fn stop_container(&self, request: Request<StopContainerRequest>) -> Answer<StopContainerResponse> {
        let StopContainerRequest { container_id, timeout } = request.into_inner();
        let grace_ms = u64::try_from(timeout).unwrap_or(0).saturating_mul(1000);
        self.0.stop_container(&container_id, grace_ms).await?;
        Ok(Response::new(StopContainerResponse {}))
    }

    async fn remove_container(&self, request: Request<RemoveContainerRequest>) -> Answer<RemoveContainerResponse> {
        self.0.remove_container(&request.get_ref().container_id).await?;
        Ok(Response::new(RemoveContainerResponse {}))
    }

    async fn list_containers(&self, request: Request<ListContainersRequest>) -> Answer<ListContainersResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let state = self.0.state.lock();
        let containers = state
            .containers
            .values()
            .filter(|container| {
                let record = &container.record;
                record.id.starts_with(&filter.id)
                    && record.sandbox.starts_with(&filter.pod_sandbox_id)
                    && filter.state.is_none_or(|wanted| wanted.state() == convert::container_state(&record.phase))
                    && convert::matches(&filter.label_selector, || record.config.read().labels)
            })
            .map(convert::container_item)
            .collect();
        Ok(Response::new(ListContainersResponse { containers }))
    }

    async fn container_status(&self, request: Request<ContainerStatusRequest>) -> Answer<ContainerStatusResponse> {
        let state = self.0.state.lock();
        let id = state.container_id(&request.get_ref().container_id).map_err(lookup_failed)?;
        let container = &state.containers[&id];
        let status = convert::container_status(&state, container);
        Ok(Response::new(ContainerStatusResponse { status: Some(status), info: Default::default() }))
    }

    async fn update_container_resources(
        &self,
        request: Request<UpdateContainerResourcesRequest>,
    ) -> Answer<UpdateContainerResourcesResponse> {
        let UpdateContainerResourcesRequest { container_id, linux, .. } = request.into_inner();
        if let Some(linux) = linux {
            self.0.set_resources(&container_id, &linux).await?;
        }
        Ok(Response::new(UpdateContainerResourcesResponse {}))
    }

    async fn reopen_container_log(
        &self,
        request: Request<ReopenContainerLogRequest>,
    ) -> Answer<ReopenContainerLogResponse> {
        self.0.reopen_log(&request.get_ref().container_id).await?;
        Ok(Response::new(ReopenContainerLogResponse {}))
    }

    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Answer<ExecSyncResponse> {
        Ok(Response::new(self.0.exec_sync(request.into_inner()).await?))
    }

    async fn exec(&self, request: Request<ExecRequest>) -> Answer<ExecResponse> {
        Ok(Response::new(ExecResponse { url: self.0.exec_url(request.into_inner())? }))
    }

    async fn attach(&self, request: Request<AttachRequest>) -> Answer<AttachResponse> {
        Ok(Response::new(AttachResponse { url: self.0.attach_url(request.into_inner())? }))
    }

    async fn port_forward(&self, request: Request<PortForwardRequest>) -> Answer<PortForwardResponse> {
        Ok(Response::new(PortForwardResponse { url: self.0.port_forward_url(request.into_inner())? }))
    }

    async fn container_stats(&self, request: Request<ContainerStatsRequest>) -> Answer<ContainerStatsResponse> {
        let id = self.0.state.lock().container_id(&request.get_ref().container_id).map_err(lookup_failed)?;
        let filter = ContainerStatsFilter { id: id.clone(), ..ContainerStatsFilter::default() };
        match self.stats(&filter).await.pop() {
            Some(stats) => Ok(Response::new(ContainerStatsResponse { stats: Some(stats) })),
            None => Err(Status::failed_precondition(format!("container {id:?} is not running"))),
        }
    }

    async fn list_container_stats(
        &self,
        request: Request<ListContainerStatsRequest>,
    ) -> Answer<ListContainerStatsResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        Ok(Response::new(ListContainerStatsResponse { stats: self.stats(&filter).await }))
    }

    async fn pod_sandbox_stats(&self, request: Request<PodSandboxStatsRequest>) -> Answer<PodSandboxStatsResponse> {
        let id = self.0.state.lock().sandbox_id(&request.get_ref().pod_sandbox_id).map_err(lookup_failed)?;
        let filter = PodSandboxStatsFilter { id, ..PodSandboxStatsFilter::default() };
        Ok(Response::new(PodSandboxStatsResponse { stats: self.pod_stats(&filter).await.pop() }))
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<ListPodSandboxStatsRequest>,
    ) -> Answer<ListPodSandboxStatsResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        Ok(Response::new(ListPodSandboxStatsResponse { stats: self.pod_stats(&filter).await }))
    }
}
