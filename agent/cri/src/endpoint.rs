//! Where a runtime is reached: a unix socket, or a service in the same process (tests and simulation).

use std::convert::Infallible;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::Channel;
use tower::Service;

use crate::server::routes;
use crate::v1::image_service_client::ImageServiceClient;
use crate::v1::image_service_server::ImageService;
use crate::v1::runtime_service_client::RuntimeServiceClient;
use crate::v1::runtime_service_server::RuntimeService;

/// The client of one runtime's RuntimeService. Cheap to clone; every clone shares one connection.
pub type RuntimeClient = RuntimeServiceClient<Transport>;
/// The client of one runtime's ImageService. Cheap to clone; every clone shares one connection.
pub type ImageClient = ImageServiceClient<Transport>;

/// The kubelet's limit: a node with many containers answers lists larger than gRPC's usual 4 MiB.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// One runtime, named for logs and for `RuntimeRouter`.
#[derive(Clone)]
pub struct Endpoint {
    name: Arc<str>,
    transport: Transport,
}

impl Endpoint {
    /// A runtime that listens on a unix socket. Connects at the first call and again after a lost connection, so the
    /// runtime may be started later than the agent. Must be called inside a tokio runtime.
    pub fn unix(path: impl AsRef<Path>) -> Self {
        let path: PathBuf = path.as_ref().to_owned();
        let name = path.display().to_string().into();
        let connector = tower::service_fn(move |_: http::Uri| {
            let path = path.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        });
        // The authority only fills HTTP/2's `:authority`; the connector ignores it.
        let channel =
            tonic::transport::Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
        Self { name, transport: Transport::Socket(channel) }
    }

    /// A runtime in this process: calls run on the caller's task, with no socket and no task of their own.
    pub fn in_process<S: RuntimeService + ImageService>(service: Arc<S>) -> Self {
        Self { name: "in-process".into(), transport: Transport::InProcess(routes(service)) }
    }

    /// The same endpoint under another name.
    pub fn named(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    /// The socket's path, or the name given by [`Endpoint::named`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A client of the RuntimeService.
    pub fn runtime(&self) -> RuntimeClient {
        RuntimeServiceClient::new(self.transport.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// A client of the ImageService.
    pub fn images(&self) -> ImageClient {
        ImageServiceClient::new(self.transport.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Carries gRPC requests to an [`Endpoint`].
#[derive(Clone)]
pub enum Transport {
    Socket(Channel),
    InProcess(Routes),
}

impl Service<http::Request<Body>> for Transport {
    type Response = http::Response<Body>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        match self {
            Transport::Socket(channel) => channel.poll_ready(cx).map_err(Into::into),
            Transport::InProcess(routes) => {
                Service::<http::Request<Body>>::poll_ready(routes, cx).map_err(|never: Infallible| match never {})
            }
        }
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match self {
            Transport::Socket(channel) => {
                let answer = channel.call(request);
                Box::pin(async move { answer.await.map_err(Into::into) })
            }
            Transport::InProcess(routes) => {
                let answer = routes.call(request);
                Box::pin(async move { answer.await.map_err(|never: Infallible| match never {}) })
            }
        }
    }
}
