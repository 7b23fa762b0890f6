//! CRI's ImageService.

use std::collections::HashSet;

use coracle_cri::v1::image_service_server::ImageService;
use coracle_cri::v1::*;
use coracle_cri::{Code, Request, Response, Status};

use super::convert;
use super::pods::Pods;
use super::runtime_service::Front;
use crate::images::{self, Credentials, ImageError};

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl ImageService for Front {
    async fn list_images(&self, request: Request<ListImagesRequest>) -> Answer<ListImagesResponse> {
        Ok(Response::new(ListImagesResponse { images: self.listed(request.into_inner().filter)? }))
    }

    async fn image_status(&self, request: Request<ImageStatusRequest>) -> Answer<ImageStatusResponse> {
        let name = request.into_inner().image.unwrap_or_default().image;
        let found = match self.0.images.get(&name).map_err(convert::image_failed)? {
            Some(found) => Some(found),
            None => {
                // It may have been put into the directory of archives a moment ago.
                self.import_archives().await?;
                self.0.images.get(&name).map_err(convert::image_failed)?
            }
        };
        let image = match found {
            Some(found) => self.with_all_names(&found)?,
            None => None,
        };
        Ok(Response::new(ImageStatusResponse { image, info: Default::default() }))
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Answer<PullImageResponse> {
        let PullImageRequest { image, auth, .. } = request.into_inner();
        let name = image.unwrap_or_default().image;
        let credentials = credentials(auth)?;
        let registries = &self.0.config.registries;
        let engine = self.0.compiler.portable().await.ok();
        let pulled = self.0.images.pull(&name, &credentials, registries, engine).await;
        let image = pulled.map_err(convert::image_failed)?;
        // Now, not at the first start: and a file that cannot be run is the image's fault. It does not stay, so that a
        // repaired one of the same name is pulled.
        let compiled = self.0.compiled(&image).await;
        if compiled.as_ref().is_err_and(|error| error.code() == Code::InvalidArgument) {
            self.0.images.remove(&image.name).map_err(convert::image_failed)?;
        }
        self.0.forget_unused_code()?;
        compiled?;
        Ok(Response::new(PullImageResponse { image_ref: image.id.to_string() }))
    }

    async fn remove_image(&self, request: Request<RemoveImageRequest>) -> Answer<RemoveImageResponse> {
        let name = request.into_inner().image.unwrap_or_default().image;
        // CRI means the image with all its names, however it is named.
        if let Some(image) = self.0.images.get(&name).map_err(convert::image_failed)? {
            self.0.images.remove(&image.id.to_string()).map_err(convert::image_failed)?;
            self.0.forget_unused_code()?;
        }
        Ok(Response::new(RemoveImageResponse {}))
    }

    async fn image_fs_info(&self, _: Request<ImageFsInfoRequest>) -> Answer<ImageFsInfoResponse> {
        let used = self.0.images.usage().map_err(convert::image_failed)?;
        let mountpoint = self.0.images.dir().to_string_lossy().into_owned();
        let code = self.0.compiler.usage();
        let usage = FilesystemUsage {
            timestamp: self.0.config.clock.now(),
            fs_id: Some(FilesystemIdentifier { mountpoint }),
            used_bytes: Some(UInt64Value { value: used.bytes + code.bytes }),
            inodes_used: Some(UInt64Value { value: used.inodes + code.inodes }),
        };
        // Containers write to volumes and logs only; what is made for them lies beside the images.
        let (image_filesystems, container_filesystems) = (vec![usage.clone()], vec![usage]);
        Ok(Response::new(ImageFsInfoResponse { image_filesystems, container_filesystems }))
    }
}

impl Front {
    fn listed(&self, filter: Option<ImageFilter>) -> Result<Vec<Image>, Status> {
        let wanted = filter.and_then(|filter| filter.image).unwrap_or_default().image;
        let mut all = self.0.images.list().map_err(convert::image_failed)?;
        if !wanted.is_empty() {
            let found = self.0.images.get(&wanted).map_err(convert::image_failed)?;
            all.retain(|image| found.as_ref().is_some_and(|found| found.id == image.id));
        }
        Ok(convert::images(&all, &self.pinned()?))
    }

    /// Takes in archives that are new. What is wrong with one is logged, and is nobody else's trouble.
    pub(super) async fn import_archives(&self) -> Result<(), Status> {
        let Some(dir) = self.0.config.archives.clone() else { return Ok(()) };
        let images = self.0.images.clone();
        let alone = self.0.archives.clone().lock_owned().await;
        // Archives may be large, and reading them must not hold up other calls. It goes on if the caller goes away, so the
        // lock is its own.
        let import = move || {
            let _alone = alone;
            images.import_dir(&dir)
        };
        let outcomes = tokio::task::spawn_blocking(import)
            .await
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(convert::image_failed)?;
        for images::Imported { file, outcome } in outcomes {
            match outcome {
                Ok(images) => {
                    let names: Vec<&str> = images.iter().map(|image| image.name.as_str()).collect();
                    tracing::info!(file = %file.display(), images = ?names, "archive imported");
                }
                Err(error) => tracing::error!(file = %file.display(), %error, "archive cannot be imported"),
            }
        }
        Ok(())
    }

    fn pinned(&self) -> Result<HashSet<String>, Status> {
        self.0.images.pinned().map_err(convert::image_failed)
    }

    fn with_all_names(&self, found: &images::Image) -> Result<Option<Image>, Status> {
        let mut all = self.0.images.list().map_err(convert::image_failed)?;
        all.retain(|image| image.id == found.id);
        Ok(convert::images(&all, &self.pinned()?).pop())
    }
}

impl Pods {
    /// Machine code goes with the last image that needs it, and with the last container of one that has no name.
    pub(super) fn forget_unused_code(&self) -> Result<(), Status> {
        let store = &self.images;
        let all = store.list().and_then(|named| Ok((named, store.in_use()?)));
        let (named, in_use) = all.map_err(|error: ImageError| convert::image_failed(error))?;
        let needed: HashSet<images::Digest> = named
            .into_iter()
            .chain(in_use)
            .flat_map(|image| image.programs.into_values().chain([image.wasm]))
            .collect();
        self.compiler.retain(&needed);
        Ok(())
    }
}

fn credentials(auth: Option<AuthConfig>) -> Result<Credentials, Status> {
    let Some(auth) = auth else { return Ok(Credentials::Anonymous) };
    let credentials = if !auth.registry_token.is_empty() {
        Credentials::Token(auth.registry_token)
    } else if !auth.identity_token.is_empty() {
        Credentials::IdentityToken(auth.identity_token)
    } else if !auth.username.is_empty() {
        Credentials::Password { user: auth.username, password: auth.password }
    } else if !auth.auth.is_empty() {
        Credentials::from_basic(&auth.auth).map_err(Status::invalid_argument)?
    } else {
        return Ok(Credentials::Anonymous);
    };
    Ok(match auth.server_address {
        host if host.is_empty() => credentials,
        host => Credentials::For { host, credentials: Box::new(credentials) },
    })
}
