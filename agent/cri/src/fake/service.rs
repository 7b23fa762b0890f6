//! The fake as a CRI server.

use std::time::Duration;

use futures::StreamExt;
use tokio::sync::broadcast;
use tonic::codegen::BoxStream;

use super::state::{self, State, missing};
use super::{FakeRuntime, Signal};
use crate::v1::image_service_server::ImageService;
use crate::v1::runtime_service_server::RuntimeService;
use crate::v1::*;
use crate::{Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;

impl FakeRuntime {
    fn read<T>(&self, rpc: &str, act: impl FnOnce(&mut State) -> Result<T, Status>) -> Answer<T> {
        self.with(|state, _| {
            state.enter(rpc, None)?;
            act(state)
        })
        .map(Response::new)
    }

    fn write<T>(&self, rpc: &str, subject: &str, act: impl FnOnce(&mut State, i64) -> Result<T, Status>) -> Answer<T> {
        self.with(|state, now| {
            state.enter(rpc, Some(subject))?;
            act(state, now)
        })
        .map(Response::new)
    }

    async fn take(step: Option<Duration>) {
        match step {
            Some(Duration::ZERO) => {}
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
    }

    async fn next_event(&self, signals: &mut broadcast::Receiver<Signal>) -> Result<ContainerEventResponse, Status> {
        loop {
            // Due exits happen here, and their events come back through `signals`.
            let deadline = self.with(|state, _| state.next_deadline());
            let wake = async {
                match deadline {
                    Some(ns) => tokio::time::sleep_until(self.instant_of(ns)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                signal = signals.recv() => match signal {
                    Ok(Signal::Event(event)) => return Ok((*event).clone()),
                    Ok(Signal::Wake) => {}
                    Ok(Signal::Cut) => return Err(Status::unavailable("connection error: the stream was cut")),
                    Err(broadcast::error::RecvError::Lagged(lost)) => {
                        return Err(Status::data_loss(format!("{lost} events were lost: list again")));
                    }
                    Err(broadcast::error::RecvError::Closed) => return Err(Status::unavailable("the runtime is gone")),
                },
                () = wake => {}
            }
        }
    }
}

fn selected(
    labels: &std::collections::BTreeMap<String, String>,
    wanted: &std::collections::BTreeMap<String, String>,
) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[tonic::async_trait]
impl RuntimeService for FakeRuntime {
    async fn version(&self, _: Request<VersionRequest>) -> Answer<VersionResponse> {
        self.read("Version", |_| {
            Ok(VersionResponse {
                version: "0.1.0".into(),
                runtime_name: "fake".into(),
                runtime_version: "1.0.0".into(),
                runtime_api_version: "v1".into(),
            })
        })
    }

    async fn status(&self, _: Request<StatusRequest>) -> Answer<StatusResponse> {
        self.read("Status", |state| {
            let network = state.pod_cidr.is_some();
            let condition = |name: &str, status, message: &str| RuntimeCondition {
                r#type: name.into(),
                status,
                reason: if status { String::new() } else { "NetworkPluginNotReady".into() },
                message: if status { String::new() } else { message.into() },
            };
            let conditions = vec![
                condition("RuntimeReady", true, ""),
                condition("NetworkReady", network, "the pod CIDR is not known yet"),
            ];
            Ok(StatusResponse { status: Some(RuntimeStatus { conditions }), ..Default::default() })
        })
    }

    async fn update_runtime_config(
        &self,
        request: Request<UpdateRuntimeConfigRequest>,
    ) -> Answer<UpdateRuntimeConfigResponse> {
        let cidr = request.into_inner().runtime_config.and_then(|c| c.network_config).unwrap_or_default().pod_cidr;
        self.write("UpdateRuntimeConfig", &cidr, |state, _| {
            let parsed =
                cidr.split_once('/').and_then(|(base, prefix)| Some((base.parse().ok()?, prefix.parse().ok()?)));
            state.pod_cidr = Some(parsed.ok_or_else(|| Status::invalid_argument(format!("pod CIDR {cidr:?}")))?);
            Ok(UpdateRuntimeConfigResponse {})
        })
    }

    async fn get_container_events(&self, _: Request<GetEventsRequest>) -> Answer<BoxStream<ContainerEventResponse>> {
        self.read("GetContainerEvents", |_| Ok(()))?;
        let seed = Some((self.clone(), self.signals.subscribe()));
        let events = futures::stream::unfold(seed, |seed| async {
            let (fake, mut signals) = seed?;
            match fake.next_event(&mut signals).await {
                Ok(event) => Some((Ok(event), Some((fake, signals)))),
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(events.boxed()))
    }

    async fn run_pod_sandbox(&self, request: Request<RunPodSandboxRequest>) -> Answer<RunPodSandboxResponse> {
        let request = request.into_inner();
        let config = request.config.ok_or_else(|| Status::invalid_argument("no sandbox config"))?;
        let subject = config.metadata.as_ref().map_or(String::new(), |m| format!("{}/{}", m.namespace, m.name));
        self.write("RunPodSandbox", &subject, |state, now| {
            let pod_sandbox_id = state.run_sandbox(config, request.runtime_handler, now)?;
            state.leave("RunPodSandbox")?;
            Ok(RunPodSandboxResponse { pod_sandbox_id })
        })
    }

    async fn stop_pod_sandbox(&self, request: Request<StopPodSandboxRequest>) -> Answer<StopPodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        self.write("StopPodSandbox", &id, |state, now| {
            state.stop_sandbox(&id, now);
            Ok(StopPodSandboxResponse {})
        })
    }

    async fn remove_pod_sandbox(&self, request: Request<RemovePodSandboxRequest>) -> Answer<RemovePodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        self.write("RemovePodSandbox", &id, |state, now| {
            state.remove_sandbox(&id, now);
            Ok(RemovePodSandboxResponse {})
        })
    }

    async fn pod_sandbox_status(&self, request: Request<PodSandboxStatusRequest>) -> Answer<PodSandboxStatusResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let timestamp = self.now_ns();
        self.read("PodSandboxStatus", |state| {
            let status = state.sandbox_status(&id).ok_or_else(|| missing("sandbox", &id))?;
            let statuses = state.containers_of(&id).iter().filter_map(|id| state.container_status(id)).collect();
            Ok(PodSandboxStatusResponse {
                status: Some(status),
                containers_statuses: statuses,
                timestamp,
                ..Default::default()
            })
        })
    }

    async fn list_pod_sandbox(&self, request: Request<ListPodSandboxRequest>) -> Answer<ListPodSandboxResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        self.read("ListPodSandbox", |state| {
            let items = state.sandboxes.iter().filter(|(id, sandbox)| {
                (filter.id.is_empty() || filter.id == **id)
                    && filter.state.as_ref().is_none_or(|want| want.state() == state::sandbox_state(sandbox))
                    && selected(&sandbox.config.labels, &filter.label_selector)
            });
            let items = items.map(|(id, sandbox)| PodSandbox {
                id: id.clone(),
                metadata: sandbox.config.metadata.clone(),
                state: state::sandbox_state(sandbox).into(),
                created_at: sandbox.created_ns,
                labels: sandbox.config.labels.clone(),
                annotations: sandbox.config.annotations.clone(),
                runtime_handler: sandbox.handler.clone(),
            });
            Ok(ListPodSandboxResponse { items: items.collect() })
        })
    }

    async fn create_container(&self, request: Request<CreateContainerRequest>) -> Answer<CreateContainerResponse> {
        let request = request.into_inner();
        let config = request.config.ok_or_else(|| Status::invalid_argument("no container config"))?;
        let name = config.metadata.as_ref().map_or(String::new(), |meta| meta.name.clone());
        let image = config.image.as_ref().map_or(String::new(), |spec| spec.image.clone());
        let step = self.write("CreateContainer", &name, |state, _| state.step(&image, "create"))?;
        Self::take(step.into_inner()).await;
        self.with(|state, now| {
            let container_id = state.create_container(request.pod_sandbox_id, config, now)?;
            Ok(Response::new(CreateContainerResponse { container_id }))
        })
    }

    async fn start_container(&self, request: Request<StartContainerRequest>) -> Answer<StartContainerResponse> {
        let id = request.into_inner().container_id;
        let step = self.write("StartContainer", &id, |state, _| {
            let image = state.containers.get(&id).ok_or_else(|| missing("container", &id))?.image().to_owned();
            state.step(&image, "start")
        })?;
        Self::take(step.into_inner()).await;
        self.with(|state, now| {
            state.start_container(&id, now)?;
            state.leave("StartContainer")
        })?;
        Ok(Response::new(StartContainerResponse {}))
    }

    async fn stop_container(&self, request: Request<StopContainerRequest>) -> Answer<StopContainerResponse> {
        let StopContainerRequest { container_id: id, timeout } = request.into_inner();
        self.write("StopContainer", &format!("{id} {timeout}"), |state, now| state.begin_stop(&id, timeout, now))?;
        loop {
            let due = self.with(|state, _| {
                let container = state.containers.get(&id).filter(|container| container.live())?;
                container.due.as_ref().map(|exit| exit.at_ns)
            });
            match due {
                Some(ns) => tokio::time::sleep_until(self.instant_of(ns)).await,
                None => return Ok(Response::new(StopContainerResponse {})),
            }
        }
    }

    async fn remove_container(&self, request: Request<RemoveContainerRequest>) -> Answer<RemoveContainerResponse> {
        let id = request.into_inner().container_id;
        self.write("RemoveContainer", &id, |state, now| {
            state.remove_container(&id, now);
            Ok(RemoveContainerResponse {})
        })
    }

    async fn list_containers(&self, request: Request<ListContainersRequest>) -> Answer<ListContainersResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        self.read("ListContainers", |state| {
            let containers = state.containers.keys().filter_map(|id| state.container(id)).filter(|container| {
                (filter.id.is_empty() || filter.id == container.id)
                    && (filter.pod_sandbox_id.is_empty() || filter.pod_sandbox_id == container.pod_sandbox_id)
                    && filter.state.as_ref().is_none_or(|want| want.state == container.state)
                    && selected(&container.labels, &filter.label_selector)
            });
            Ok(ListContainersResponse { containers: containers.collect() })
        })
    }

    async fn container_status(&self, request: Request<ContainerStatusRequest>) -> Answer<ContainerStatusResponse> {
        let id = request.into_inner().container_id;
        self.read("ContainerStatus", |state| {
            let status = state.container_status(&id).ok_or_else(|| missing("container", &id))?;
            Ok(ContainerStatusResponse { status: Some(status), ..Default::default() })
        })
    }

    async fn reopen_container_log(
        &self,
        request: Request<ReopenContainerLogRequest>,
    ) -> Answer<ReopenContainerLogResponse> {
        let id = request.into_inner().container_id;
        self.write("ReopenContainerLog", &id, |_, _| Ok(ReopenContainerLogResponse {}))
    }

    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Answer<ExecSyncResponse> {
        let request = request.into_inner();
        let (id, line) = (request.container_id, request.cmd.join(" "));
        let code = self.write("ExecSync", &line.clone(), |state, _| {
            let container = state.containers.get(&id).ok_or_else(|| missing("container", &id))?;
            if !container.live() {
                return Err(Status::failed_precondition(format!("container \"{id}\" is not running")));
            }
            let code = state.script(container.image()).and_then(|script| script.exec.get(&line)).copied();
            code.ok_or_else(|| Status::unknown(format!("exec: {line:?}: executable file not found in $PATH")))
        })?;
        match code.into_inner() {
            Some(exit_code) => {
                let stdout = if exit_code == 0 { Vec::new() } else { format!("{line} says no").into_bytes() };
                Ok(Response::new(ExecSyncResponse { stdout, stderr: Vec::new(), exit_code }))
            }
            None => std::future::pending().await,
        }
    }

    async fn update_container_resources(
        &self,
        request: Request<UpdateContainerResourcesRequest>,
    ) -> Answer<UpdateContainerResourcesResponse> {
        let UpdateContainerResourcesRequest { container_id, linux, .. } = request.into_inner();
        let memory = linux.unwrap_or_default().memory_limit_in_bytes;
        self.write("UpdateContainerResources", &format!("{container_id} memory={memory}"), |state, _| {
            state.containers.get(&container_id).ok_or_else(|| missing("container", &container_id))?;
            Ok(UpdateContainerResourcesResponse {})
        })
    }

    async fn list_container_stats(&self, _: Request<ListContainerStatsRequest>) -> Answer<ListContainerStatsResponse> {
        self.read("ListContainerStats", |state| {
            let live = state.containers.iter().filter(|(_, container)| container.live());
            let stats = live.map(|(id, container)| {
                let value = state.script(container.image()).map_or(0, |script| script.memory_bytes);
                let attributes = ContainerAttributes {
                    id: id.clone(),
                    metadata: container.config.metadata.clone(),
                    labels: container.config.labels.clone(),
                    ..ContainerAttributes::default()
                };
                let working_set_bytes = Some(UInt64Value { value });
                let memory = Some(MemoryUsage { working_set_bytes, ..MemoryUsage::default() });
                ContainerStats { attributes: Some(attributes), memory, ..ContainerStats::default() }
            });
            Ok(ListContainerStatsResponse { stats: stats.collect() })
        })
    }

    async fn runtime_config(&self, _: Request<RuntimeConfigRequest>) -> Answer<RuntimeConfigResponse> {
        self.read("RuntimeConfig", |_| Ok(RuntimeConfigResponse::default()))
    }
}

#[tonic::async_trait]
impl ImageService for FakeRuntime {
    async fn list_images(&self, _: Request<ListImagesRequest>) -> Answer<ListImagesResponse> {
        self.read("ListImages", |state| Ok(ListImagesResponse { images: state.images.values().cloned().collect() }))
    }

    async fn image_status(&self, request: Request<ImageStatusRequest>) -> Answer<ImageStatusResponse> {
        let name = request.into_inner().image.unwrap_or_default().image;
        self.read("ImageStatus", |state| {
            Ok(ImageStatusResponse { image: state.image(&name).cloned(), ..Default::default() })
        })
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Answer<PullImageResponse> {
        let name = request.into_inner().image.unwrap_or_default().image;
        let step = self.write("PullImage", &name, |state, _| state.step(&name, "pull"))?;
        Self::take(step.into_inner()).await;
        if self.with(|state, _| state.script(&name).is_some_and(|script| script.foreign)) {
            return Err(crate::other_kind(format!("{name:?} is of another kind")));
        }
        let image_ref = self.with(|state, _| state.add_image(&name));
        Ok(Response::new(PullImageResponse { image_ref }))
    }

    async fn remove_image(&self, request: Request<RemoveImageRequest>) -> Answer<RemoveImageResponse> {
        let name = request.into_inner().image.unwrap_or_default().image;
        self.write("RemoveImage", &name, |state, _| {
            state.images.retain(|known, image| *known != name && image.id != name);
            Ok(RemoveImageResponse {})
        })
    }

    async fn image_fs_info(&self, _: Request<ImageFsInfoRequest>) -> Answer<ImageFsInfoResponse> {
        self.read("ImageFsInfo", |_| {
            let fs_id = Some(FilesystemIdentifier { mountpoint: "/fake/images".to_owned() });
            let usage = FilesystemUsage { fs_id, ..FilesystemUsage::default() };
            Ok(ImageFsInfoResponse { image_filesystems: vec![usage], ..ImageFsInfoResponse::default() })
        })
    }
}
