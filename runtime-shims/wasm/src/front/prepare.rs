//! Opens what a guest needs, for the worker that will run it. Part of [`Pods`].

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::limits::plan_pod;
use super::link::Link;
use super::mounts::{MountPlan, plan_mounts};
use super::plan::{GuestPlan, HttpPlan, plan_guest, plan_net};
use super::pods::{Pods, guest_ip, listen_ip};
use super::records::{ContainerRecord, SandboxRecord};
use super::{convert, keyvalue, logs, looks};
use crate::compile::Compiled;
use crate::images::Image;
use crate::wire::{Command, GuestSpec, KeyvalueSpec};

/// A container and what it is made of: everything that decides what its guest is given.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) sandbox: SandboxRecord,
    pub(super) record: ContainerRecord,
    /// With the program that runs as its own.
    pub(super) image: Image,
    pub(super) compiled: Compiled,
}

/// A guest with everything opened for it.
pub(super) struct Prepared {
    pub(super) spec: GuestSpec,
    pub(super) fds: Vec<OwnedFd>,
}

impl Pods {
    /// Opens what the guest needs. An HTTP guest is served on `listener`, if there is one already. It may take for ever,
    /// as long as the server of a volume does not answer, but holds up nobody else.
    pub(super) async fn prepare(
        self: &Arc<Pods>,
        made: Arc<Made>,
        listener: Option<OwnedFd>,
    ) -> Result<Prepared, String> {
        let pods = self.clone();
        let name = made.record.config.read().metadata.unwrap_or_default().name;
        let opened = made.clone();
        let opening = self.looks.take(&made.sandbox.id, &name, move || pods.open_needed(&opened)).await;
        let (mut prepared, served) = opening.unwrap_or_else(|error| Err(error.to_string()))?;
        // Not before: nobody could have the port while a volume does not answer, not even the next who gets the address.
        if let Some((plan, address)) = served {
            prepared.fds.push(match listener {
                Some(listener) => listener,
                None => listen(address).map_err(|error| format!("cannot listen on {address}: {error}"))?.into(),
            });
            prepared.spec.http = Some(plan.spec(prepared.fds.len() - 1));
        }
        Ok(prepared)
    }

    /// The order to run it, in a worker that it is on record for: from then on that hears itself of other limits. Those
    /// of the pod may have changed while everything was opened.
    pub(super) fn start_order(&self, made: &Made, prepared: &Prepared, link: &Link) -> Command {
        let mut spec = prepared.spec.clone();
        let has_changed = |now: &&SandboxRecord| now.config != made.sandbox.config;
        let changed = self.state.lock().sandboxes.get(&made.sandbox.id).filter(has_changed).cloned();
        if let Some(now) = changed {
            spec.pod = plan_pod(&now.id, &now.config.read(), &made.record.config.read());
            self.limit_worker(link, &now);
        }
        Command::Start(Box::new(spec))
    }

    /// All but what it is served on.
    fn open_needed(&self, made: &Made) -> Result<(Prepared, Option<(HttpPlan, SocketAddr)>), String> {
        let Made { sandbox, record, image, compiled } = made;
        let (pod, config) = (sandbox.config.read(), record.config.read());
        let GuestPlan { args, env, working_dir, stdin, memory_bytes, limits, http } =
            plan_guest(&pod, &config, image, compiled.kind, &[])?;
        let net = plan_net(&pod, guest_ip(sandbox))?;
        let mut fds: Vec<OwnedFd> = Vec::new();
        let log = match logs::path(&pod, &config) {
            Some(path) => {
                let file = logs::open(&path).map_err(|error| format!("cannot open log {}: {error}", path.display()))?;
                fds.push(file.into());
                Some(fds.len() - 1)
            }
            None => None,
        };
        // The port was chosen with the sandbox's other containers in sight.
        let served = http.zip(record.http).map(|(plan, port)| (plan, SocketAddr::from((listen_ip(sandbox), port.0))));
        let mounts: MountPlan = plan_mounts(&config.mounts, looks::is_dir)?;
        let (volumes, dirs) = mounts.open(&self.scratch(&record.id), fds.len())?;
        fds.extend(dirs);
        let mut add = |fd: OwnedFd| {
            fds.push(fd);
            fds.len() - 1
        };
        let wasi_config = mounts.open_config()?.map(&mut add);
        let keyvalue = if compiled.uses_keyvalue {
            let namespace = pod.metadata.clone().unwrap_or_default().namespace;
            let dir = keyvalue::open(&self.config.root, &namespace)
                .map_err(|error| format!("cannot open the key-value store of {namespace:?}: {error}"))?;
            Some(KeyvalueSpec { namespace, dir: add(dir), limit_bytes: self.config.keyvalue_bytes })
        } else {
            None
        };
        let spec = GuestSpec {
            id: record.id.clone(),
            title: convert::title(sandbox, record),
            place: (sandbox.id.clone(), config.metadata.clone().unwrap_or_default().name),
            kind: compiled.kind,
            code: compiled.path.clone(),
            args,
            env,
            working_dir,
            stdin,
            volumes,
            memory_bytes: Some(memory_bytes.unwrap_or(self.default_memory_bytes)),
            limits,
            pod: plan_pod(&sandbox.id, &pod, &config),
            log,
            http: None,
            net,
            config: wasi_config,
            keyvalue,
        };
        Ok((Prepared { spec, fds }, served))
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    // Connections of a container before this one may still linger.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}
