//! Asks a pod's runtime for the URL that takes a client's connection to a command, a container or a port.

use std::sync::Arc;

use coracle_cri::v1::{AttachRequest, ExecRequest, PodSandboxState, PortForwardRequest};

use crate::pod::context::PodContext;
use crate::runtime::Runtime;
use crate::server::{NoStream, Streams, Wanted};

/// Only what runs can be spoken to.
pub(crate) async fn stream_url(context: &PodContext, wanted: Wanted) -> Result<String, NoStream> {
    let runtime = context.chosen().map(|(runtime, _)| runtime);
    let url = match wanted {
        Wanted::Exec { container, command, streams } => {
            let (runtime, container_id) = running(context, runtime, container)?;
            let Streams { stdin, stdout, stderr, tty } = streams;
            runtime.exec(ExecRequest { container_id, cmd: command, tty, stdin, stdout, stderr }).await
        }
        Wanted::Attach { container, streams } => {
            let (runtime, container_id) = running(context, runtime, container)?;
            let Streams { stdin, stdout, stderr, tty } = streams;
            runtime.attach(AttachRequest { container_id, stdin, tty, stdout, stderr }).await
        }
        Wanted::PortForward { ports } => {
            let runtime = runtime.ok_or(NoStream::Pod)?;
            let sandboxes = runtime.sandboxes(Some(&context.uid)).await.map_err(NoStream::Runtime)?;
            let ready = sandboxes.into_iter().find(|sandbox| sandbox.state() == PodSandboxState::SandboxReady);
            let pod_sandbox_id = ready.ok_or(NoStream::Pod)?.id;
            runtime.port_forward(PortForwardRequest { pod_sandbox_id, port: ports }).await
        }
    };
    url.map_err(NoStream::Runtime)
}

fn running(
    context: &PodContext,
    runtime: Option<Arc<Runtime>>,
    container: String,
) -> Result<(Arc<Runtime>, String), NoStream> {
    let id = context.view.lock().live.get(container.as_str()).map(|run| run.id.to_string());
    runtime.zip(id).ok_or(NoStream::Container { container })
}
