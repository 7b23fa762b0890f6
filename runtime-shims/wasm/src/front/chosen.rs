//! Which program of its image a container runs, and which one a command in it. Part of [`Pods`].

use std::sync::Arc;

use coracle_cri::Status;
use coracle_cri::v1::{ContainerConfig, PodSandboxConfig};

use super::convert;
use super::plan::{GuestPlan, plan_guest};
use super::pods::Pods;
use super::programs::{Known, Program};
use super::records::ContainerRecord;
use crate::compile::GuestKind;
use crate::images::{Image, Programs};

impl Pods {
    /// What the first word of a new container's command means, and the image as it would be if that were its program.
    pub(super) async fn chosen(
        &self,
        pod: &PodSandboxConfig,
        config: &ContainerConfig,
        image: &Image,
    ) -> Result<(Program, Image), Status> {
        let Some(word) = config.command.first() else { return Ok((Program::Own, image.clone())) };
        // The image's own program goes by the name that it would have without a command.
        let plain = ContainerConfig { command: Vec::new(), ..config.clone() };
        let plan = plan(pod, &plain, image)?;
        let known = known(&plan, image, &Program::Own);
        let program = match self.meaning(&known, word).await? {
            Ok(program) => program,
            // Where there is no other, any word has always been a name for it.
            Err(programs) if programs.is_one => Program::Own,
            Err(programs) => Program::Missing(known.missing(word, &programs.paths)),
        };
        let image = self.with_program(image, &program).await?;
        Ok((program, image))
    }

    /// The image a container was made of, as it would be if the container's program were its own.
    pub(super) async fn image_run_by(&self, record: &ContainerRecord) -> Result<Image, Status> {
        self.with_program(&self.image_of(record)?, &record.program).await
    }

    /// What `word` means in a container: its image as it would be if that were its program.
    pub(super) async fn program(self: &Arc<Pods>, id: &str, word: &str) -> Result<Image, Status> {
        let (sandbox, record) = {
            let state = self.state.lock();
            let record = state.containers.get(id).map(|container| container.record.clone());
            let record = record.ok_or_else(|| Status::not_found(format!("container {id:?}: not found")))?;
            let sandbox = state.sandboxes.get(&record.sandbox).map(|sandbox| sandbox.config.read());
            (sandbox.unwrap_or_default(), record)
        };
        let (image, config) = (self.image_of(&record)?, record.config.read());
        let plan = plan(&sandbox, &config, &image)?;
        let known = known(&plan, &image, &record.program);
        let program = match self.meaning(&known, word).await? {
            Ok(Program::Own) => record.program,
            Ok(program) => program,
            Err(programs) => {
                let text = known.missing(word, &programs.paths);
                return Err(Status::unknown(format!("failed to exec in container: {text}")));
            }
        };
        self.with_program(&image, &program).await
    }

    /// What a word means, or what there is if it means nothing.
    async fn meaning(&self, known: &Known<'_>, word: &str) -> Result<Result<Program, Arc<Programs>>, Status> {
        if known.is_own(word) {
            return Ok(Ok(Program::Own));
        }
        let paths = known.paths(word);
        // Used before: no need to look at the layers.
        if let Some(path) = paths.iter().find(|path| known.image.programs.contains_key(*path)) {
            return Ok(Ok(Program::File(path.clone())));
        }
        let programs = self.images.programs(known.image).await.map_err(convert::image_failed)?;
        Ok(match paths.into_iter().find(|path| programs.paths.contains(path)) {
            Some(path) => Ok(Program::File(path)),
            None => Err(programs),
        })
    }

    async fn with_program(&self, image: &Image, program: &Program) -> Result<Image, Status> {
        match program {
            Program::Own | Program::Missing(_) => Ok(image.clone()),
            Program::File(path) => self.images.program(image, path).await.map_err(convert::image_failed),
        }
    }
}

/// As a module: what is wanted is what every kind of guest is given.
fn plan(pod: &PodSandboxConfig, config: &ContainerConfig, image: &Image) -> Result<GuestPlan, Status> {
    plan_guest(pod, config, image, GuestKind::Module, &[]).map_err(Status::invalid_argument)
}

fn known<'a>(plan: &'a GuestPlan, image: &'a Image, program: &'a Program) -> Known<'a> {
    Known {
        own: plan.args.first().map(String::as_str).unwrap_or_default(),
        program,
        image,
        env: &plan.env,
        working_dir: plan.working_dir.as_deref(),
    }
}
