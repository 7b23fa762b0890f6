//! The container runtimes of this node, as the agent calls them.
//!
//! Owns deadlines, the bound on calls under way, and the translation of gRPC's faults. Must not know: pods' lives.

use std::sync::Arc;
use std::time::Duration;

use coracle_client::watched;
use coracle_cri::v1::*;
use coracle_cri::{Code, Endpoint, Response, RuntimeRouter, Status, UnknownHandler};
use futures::{Stream, StreamExt};
use parking_lot::RwLock;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Kubelet's deadline for a call, and for those that take longer by nature.
const CALL: Duration = Duration::from_secs(120);
/// How long a pod waits for a runtime that is just coming up before its user is told.
const MEETING: Duration = Duration::from_secs(5);
const RUN_SANDBOX: Duration = Duration::from_secs(240);
/// Calls under way at once in one runtime, so that one that hangs does not hold the others up: more do not make a runtime faster, and a thousand pods may come at once.
const CALLS_MAX: usize = 32;
const PULLS_MAX: usize = 8;
/// A pull that takes longer goes on beside the others: eight registries that send next to nothing must not be all that a
/// node ever pulls from, and on a slow line all that has come would be lost with a pull that is given up.
const PULL_TURN: Duration = Duration::from_secs(600);

/// The label under which runtimes keep a pod's UID, as kubelet sets it.
pub const POD_UID: &str = "io.kubernetes.pod.uid";

/// A runtime's refusal or silence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rpc error: code = {code:?} desc = {message}")]
pub struct CriError {
    pub code: Code,
    /// The runtime's own words.
    pub message: String,
}

impl From<Status> for CriError {
    fn from(status: Status) -> Self {
        Self { code: status.code(), message: status.message().to_owned() }
    }
}

impl CriError {
    /// Whether the call had its effect is not known: the answer was lost.
    pub fn is_unsure(&self) -> bool {
        matches!(self.code, Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
    }

    /// What [`coracle_cri::other_kind`] makes.
    pub fn is_other_kind(&self) -> bool {
        self.code == Code::FailedPrecondition
    }

    pub fn is_not_found(&self) -> bool {
        self.code == Code::NotFound
    }
}

/// What a runtime says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeInfo {
    pub name: Arc<str>,
    pub version: String,
}

/// One runtime.
pub struct Runtime {
    endpoint: Endpoint,
    calls: Semaphore,
    pulls: Semaphore,
    info: RwLock<Option<RuntimeInfo>>,
    /// Its events have been heard since this agent started.
    met: watched::Sender<bool>,
}

/// All runtimes of the node.
#[derive(Clone)]
pub struct Runtimes {
    router: RuntimeRouter,
    all: Vec<Arc<Runtime>>,
}

impl Runtimes {
    pub fn new(router: RuntimeRouter) -> Self {
        let runtime = |endpoint: &Endpoint| {
            Arc::new(Runtime {
                endpoint: endpoint.clone(),
                calls: Semaphore::new(CALLS_MAX),
                pulls: Semaphore::new(PULLS_MAX),
                info: RwLock::default(),
                met: watched::Sender::new(false),
            })
        };
        let all = router.endpoints().iter().map(runtime).collect();
        Self { router, all }
    }

    /// The default first.
    pub fn all(&self) -> &[Arc<Runtime>] {
        &self.all
    }

    pub fn route(&self, handler: &str) -> Result<&Arc<Runtime>, UnknownHandler> {
        let endpoint = self.router.route(handler)?;
        let known = self.all.iter().find(|runtime| runtime.endpoint.name() == endpoint.name());
        Ok(known.expect("every endpoint of the router has its runtime"))
    }

    /// The runtime that is asked first about pods without a handler, and its handler; none if that is the default.
    pub fn claimant(&self) -> Option<(&Arc<Runtime>, &str)> {
        let handler = self.router.claimant()?;
        let runtime = self.route(handler).ok()?;
        (!Arc::ptr_eq(runtime, &self.all[0])).then_some((runtime, handler))
    }

    pub fn handlers(&self) -> impl Iterator<Item = &str> {
        self.router.handlers()
    }
}

type Answer<T> = Result<T, CriError>;

impl Runtime {
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// What the runtime last said it is; a placeholder before it has answered for the first time.
    pub fn name(&self) -> Arc<str> {
        self.info.read().as_ref().map_or_else(|| "unknown".into(), |info| info.name.clone())
    }

    pub fn info(&self) -> Option<RuntimeInfo> {
        self.info.read().clone()
    }

    /// Its events are being heard. True if they were not before.
    pub fn meet(&self) -> bool {
        self.met.send_if_modified(|met| !std::mem::replace(met, true))
    }

    /// Waits until its events are heard for the first time: what is listed or started before could end unseen.
    pub async fn met(&self) {
        // The sender is this runtime's own.
        let _ = self.met.subscribe().wait_for(|met| *met).await;
    }

    /// As [`Runtime::met`], for as long as a runtime may take to come up.
    pub async fn there(&self) -> Result<(), String> {
        let down = |_| format!("the container runtime at {} does not answer", self.endpoint.name());
        timeout(MEETING, self.met()).await.map_err(down)
    }

    /// A call under way takes tens of kilobytes, one that waits for its turn must not: it is made when its turn comes.
    async fn call<T>(&self, call: impl AsyncFnOnce() -> Result<Response<T>, Status>) -> Answer<T> {
        let _permit = self.calls.acquire().await;
        within(CALL, call).await
    }

    pub async fn version(&self) -> Answer<RuntimeInfo> {
        let mut client = self.endpoint.runtime();
        let answer = self.call(async || client.version(VersionRequest { version: "0.1.0".into() }).await).await?;
        let info = RuntimeInfo { name: answer.runtime_name.into(), version: answer.runtime_version };
        *self.info.write() = Some(info.clone());
        Ok(info)
    }

    pub async fn status(&self) -> Answer<StatusResponse> {
        self.call(async || self.endpoint.runtime().status(StatusRequest { verbose: false }).await).await
    }

    pub async fn set_pod_cidr(&self, pod_cidr: &str) -> Answer<()> {
        let network_config = Some(NetworkConfig { pod_cidr: pod_cidr.to_owned() });
        let runtime_config = Some(RuntimeConfig { network_config });
        let mut client = self.endpoint.runtime();
        self.call(async || client.update_runtime_config(UpdateRuntimeConfigRequest { runtime_config }).await)
            .await
            .map(drop)
    }

    /// What happens in the runtime from now on. The stream ends with the connection.
    pub async fn events(&self) -> Answer<impl Stream<Item = Answer<ContainerEventResponse>> + Send + use<>> {
        let mut client = self.endpoint.runtime();
        let stream = within(CALL, async || client.get_container_events(GetEventsRequest {}).await).await?;
        Ok(stream.map(|event| event.map_err(CriError::from)))
    }

    pub async fn run_sandbox(&self, config: PodSandboxConfig, handler: &str) -> Answer<String> {
        let request = RunPodSandboxRequest { config: Some(config), runtime_handler: handler.to_owned() };
        let _permit = self.calls.acquire().await;
        let answer = within(RUN_SANDBOX, async || self.endpoint.runtime().run_pod_sandbox(request).await).await?;
        Ok(answer.pod_sandbox_id)
    }

    pub async fn sandbox_status(&self, id: &str) -> Answer<PodSandboxStatusResponse> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        self.call(async || self.endpoint.runtime().pod_sandbox_status(request).await).await
    }

    pub async fn stop_sandbox(&self, id: &str) -> Answer<()> {
        let request = StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        gone_is_done(self.call(async || self.endpoint.runtime().stop_pod_sandbox(request).await).await.map(drop))
    }

    pub async fn remove_sandbox(&self, id: &str) -> Answer<()> {
        let request = RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        gone_is_done(self.call(async || self.endpoint.runtime().remove_pod_sandbox(request).await).await.map(drop))
    }

    /// The sandboxes of one pod, or all.
    pub async fn sandboxes(&self, pod_uid: Option<&str>) -> Answer<Vec<PodSandbox>> {
        let filter = PodSandboxFilter { label_selector: of_pod(pod_uid), ..Default::default() };
        let request = ListPodSandboxRequest { filter: Some(filter) };
        Ok(self.call(async || self.endpoint.runtime().list_pod_sandbox(request).await).await?.items)
    }

    pub async fn containers(&self, pod_uid: Option<&str>) -> Answer<Vec<Container>> {
        let filter = ContainerFilter { label_selector: of_pod(pod_uid), ..Default::default() };
        let request = ListContainersRequest { filter: Some(filter) };
        Ok(self.call(async || self.endpoint.runtime().list_containers(request).await).await?.containers)
    }

    pub async fn create_container(&self, request: Box<CreateContainerRequest>) -> Answer<String> {
        Ok(self.call(async || self.endpoint.runtime().create_container(*request).await).await?.container_id)
    }

    pub async fn start_container(&self, id: &str) -> Answer<()> {
        let request = StartContainerRequest { container_id: id.to_owned() };
        self.call(async || self.endpoint.runtime().start_container(request).await).await.map(drop)
    }

    /// Returns when the container has ended, which may take all of `grace`. Not counted among the calls under way.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Answer<()> {
        let seconds = grace.as_millis().div_ceil(1000);
        let timeout = i64::try_from(seconds).unwrap_or(i64::MAX);
        let request = StopContainerRequest { container_id: id.to_owned(), timeout };
        gone_is_done(
            within(grace + CALL, async || self.endpoint.runtime().stop_container(request).await).await.map(drop),
        )
    }

    pub async fn remove_container(&self, id: &str) -> Answer<()> {
        let request = RemoveContainerRequest { container_id: id.to_owned() };
        gone_is_done(self.call(async || self.endpoint.runtime().remove_container(request).await).await.map(drop))
    }

    pub async fn container_status(&self, id: &str) -> Answer<ContainerStatus> {
        let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let answer = self.call(async || self.endpoint.runtime().container_status(request).await).await?;
        answer.status.ok_or_else(|| Status::internal(format!("no status of container {id}")).into())
    }

    pub async fn update_resources(&self, id: &str, resources: LinuxContainerResources) -> Answer<()> {
        let linux = Some(resources);
        let request = UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux,
            ..UpdateContainerResourcesRequest::default()
        };
        self.call(async || self.endpoint.runtime().update_container_resources(request).await).await.map(drop)
    }

    /// The runtime goes on writing to a new file of the old name.
    pub async fn reopen_log(&self, id: &str) -> Answer<()> {
        let request = ReopenContainerLogRequest { container_id: id.to_owned() };
        self.call(async || self.endpoint.runtime().reopen_container_log(request).await).await.map(drop)
    }

    /// Not counted among the calls under way: it lasts as long as the command.
    pub async fn exec_sync(&self, id: &str, command: &[String], limit: Duration) -> Answer<ExecSyncResponse> {
        // CRI counts whole seconds, and none would be no limit.
        let timeout = i64::try_from(limit.as_millis().div_ceil(1000).max(1)).unwrap_or(i64::MAX);
        let request = ExecSyncRequest { container_id: id.to_owned(), cmd: command.to_vec(), timeout };
        within(limit + Duration::from_secs(2), async || self.endpoint.runtime().exec_sync(request).await).await
    }

    /// The URL that takes the client's connection.
    pub async fn exec(&self, request: ExecRequest) -> Answer<String> {
        Ok(self.call(async || self.endpoint.runtime().exec(request).await).await?.url)
    }

    pub async fn attach(&self, request: AttachRequest) -> Answer<String> {
        Ok(self.call(async || self.endpoint.runtime().attach(request).await).await?.url)
    }

    pub async fn port_forward(&self, request: PortForwardRequest) -> Answer<String> {
        Ok(self.call(async || self.endpoint.runtime().port_forward(request).await).await?.url)
    }

    pub async fn container_stats(&self) -> Answer<Vec<ContainerStats>> {
        let request = ListContainerStatsRequest::default();
        Ok(self.call(async || self.endpoint.runtime().list_container_stats(request).await).await?.stats)
    }

    pub async fn image(&self, image: ImageSpec) -> Answer<Option<Image>> {
        let request = ImageStatusRequest { image: Some(image), verbose: false };
        Ok(self.call(async || self.endpoint.images().image_status(request).await).await?.image)
    }

    /// Takes as long as it takes; dropping the future gives it up. Waits for its turn: `on_turn` is called then.
    pub async fn pull(&self, request: PullImageRequest, on_turn: impl FnOnce()) -> Answer<String> {
        let turn = self.pulls.acquire().await;
        on_turn();
        let mut images = self.endpoint.images();
        let mut pulling = Box::pin(images.pull_image(request));
        let pulled = match timeout(PULL_TURN, &mut pulling).await {
            Ok(pulled) => pulled,
            Err(_) => {
                drop(turn);
                pulling.await
            }
        };
        Ok(pulled?.into_inner().image_ref)
    }

    /// With all its names.
    pub async fn remove_image(&self, id: &str) -> Answer<()> {
        let image = Some(ImageSpec { image: id.to_owned(), ..ImageSpec::default() });
        gone_is_done(
            self.call(async || self.endpoint.images().remove_image(RemoveImageRequest { image }).await).await.map(drop),
        )
    }

    /// Where its images lie.
    pub async fn image_dir(&self) -> Answer<String> {
        let info = self.call(async || self.endpoint.images().image_fs_info(ImageFsInfoRequest {}).await).await?;
        let first = info.image_filesystems.into_iter().next().and_then(|usage| usage.fs_id);
        let place = first.map(|fs| fs.mountpoint).filter(|place| !place.is_empty());
        place.ok_or_else(|| Status::internal("the runtime does not say where its images lie").into())
    }

    pub async fn images(&self) -> Answer<Vec<Image>> {
        Ok(self
            .call(async || self.endpoint.images().list_images(ListImagesRequest { filter: None }).await)
            .await?
            .images)
    }
}

async fn within<T>(limit: Duration, call: impl AsyncFnOnce() -> Result<Response<T>, Status>) -> Answer<T> {
    match timeout(limit, Box::pin(call())).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(Status::deadline_exceeded("context deadline exceeded").into()),
    }
}

/// What is to be ended or removed and is not there needs nothing more.
fn gone_is_done(answer: Answer<()>) -> Answer<()> {
    match answer {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}

fn of_pod(pod_uid: Option<&str>) -> std::collections::BTreeMap<String, String> {
    pod_uid.map(|uid| (POD_UID.to_owned(), uid.to_owned())).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use coracle_cri::fake::FakeRuntime;
    use futures::future::join_all;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pulls_that_never_end_keep_no_other_from_its_turn() {
        let fake = FakeRuntime::new(0).scripted("endless", "pull never");
        let runtime = Runtimes::new(RuntimeRouter::new(fake.endpoint())).all()[0].clone();
        let pull = async |image: &str| {
            let image = Some(ImageSpec { image: image.to_owned(), ..ImageSpec::default() });
            runtime.pull(PullImageRequest { image, ..PullImageRequest::default() }, || ()).await
        };
        let endless = join_all((0..PULLS_MAX).map(|_| pull("endless")));
        tokio::select! {
            biased;
            ended = endless => panic!("{ended:?}"),
            pulled = pull("app") => drop(pulled.expect("it is pulled")),
            () = tokio::time::sleep(PULL_TURN * 2) => panic!("its turn never comes"),
        }
    }
}
