//! The server side: one value that implements both services, served on a unix socket.

use std::future::Future;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::Status;
use tonic::service::Routes;
use tower::util::MapResponseLayer;

use crate::endpoint::MESSAGE_BYTES_MAX;
use crate::v1::image_service_server::{ImageService, ImageServiceServer};
use crate::v1::runtime_service_server::{RuntimeService, RuntimeServiceServer};

/// Three times as much, if it is written in bytes that no header has.
const REFUSAL_BYTES_MAX: usize = 4096;

/// Why a runtime could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another live process answers on the socket.
    #[error("socket {} is in use by another process: stop it, or give another path", path.display())]
    InUse { path: PathBuf },
    /// The socket could not be made.
    #[error("cannot listen on socket {}: {source}", path.display())]
    Bind { path: PathBuf, source: io::Error },
    /// The server ended with a fault.
    #[error("the CRI server on {} failed: {source}", path.display())]
    Serve { path: PathBuf, source: tonic::transport::Error },
}

/// Both services of a runtime as one tower service.
pub fn routes<S: RuntimeService + ImageService>(service: Arc<S>) -> Routes {
    Routes::new(
        RuntimeServiceServer::from_arc(service.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX),
    )
    .add_service(
        ImageServiceServer::from_arc(service)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX),
    )
    .prepare()
}

/// Serves `service` on a unix socket (mode 0600) until `shutdown` completes. A socket file that nobody answers on, as a
/// killed process leaves it, is replaced; `bound` is called once connections are accepted.
pub async fn serve_unix<S: RuntimeService + ImageService>(
    path: impl AsRef<Path>,
    service: Arc<S>,
    bound: impl FnOnce(),
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let path = path.as_ref();
    let listener = bind(path).await?;
    bound();
    let served = tonic::transport::Server::builder()
        .layer(MapResponseLayer::new(with_short_refusal))
        .add_routes(routes(service))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), shutdown)
        .await;
    // A path that stays behind only costs the next start a connection attempt.
    let _ = std::fs::remove_file(path);
    served.map_err(|source| ServeError::Serve { path: path.to_owned(), source })
}

/// A refusal is a header, of which clients take 16 KiB together: a longer one breaks all calls on its connection. It may
/// quote what somebody wrote who means harm.
fn with_short_refusal<B>(mut response: http::Response<B>) -> http::Response<B> {
    let headers = response.headers_mut();
    if headers.get(Status::GRPC_MESSAGE).is_some_and(|text| text.len() > REFUSAL_BYTES_MAX)
        && let Some(status) = Status::from_header_map(headers)
    {
        let text = status.message();
        let short = Status::new(status.code(), &text[..text.floor_char_boundary(REFUSAL_BYTES_MAX)]);
        // It was a header before.
        let _ = short.add_header(headers);
    }
    response
}

async fn bind(path: &Path) -> Result<UnixListener, ServeError> {
    let failed = |source| ServeError::Bind { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => {
            if tokio::net::UnixStream::connect(path).await.is_ok() {
                return Err(ServeError::InUse { path: path.to_owned() });
            }
            std::fs::remove_file(path).map_err(failed)?;
        }
        Ok(_) => return Err(failed(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket is there"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    // Whoever may write to the socket may run anything on the node.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}
