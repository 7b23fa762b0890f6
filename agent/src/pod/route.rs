//! Which runtime a pod without a RuntimeClass goes to, where there is one that takes only images of its own kind.
//!
//! That one, the claimant, is asked about each of the pod's images: it has it, or it pulls it, or it says that the image
//! is of another kind. A pod whose images are all of its kind is its; every other one is the default runtime's. Must not
//! know: what the kinds are.

use std::collections::BTreeSet;
use std::sync::Arc;

use coracle_client::Pod;
use coracle_cri::Code;
use coracle_cri::v1::ImageSpec;
use k8s_openapi::api::core::v1::Container;

use super::acts::{self, SIGNATURE_FAULT};
use super::context::PodContext;
use super::image::with_default_tag;
use crate::runtime::{CriError, Runtime};

/// What the claimant says of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Own,
    Other,
}

/// The claimant and its handler, if the pod is its; an error if that cannot be told yet.
pub(super) async fn claim(context: &PodContext, pod: &Pod) -> Result<Option<(Arc<Runtime>, String)>, String> {
    let Some((claimant, handler)) = context.shared.runtimes.claimant() else { return Ok(None) };
    let mut asked = BTreeSet::new();
    let spec = pod.spec.as_ref();
    let init = spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    for container in init.chain(spec.iter().flat_map(|spec| &spec.containers)) {
        // A name that is none is said where the image is wanted.
        let Ok(image) = with_default_tag(container.image.as_deref().unwrap_or_default()) else { return Ok(None) };
        if !asked.insert(image.clone()) {
            continue;
        }
        if kind_of(context, pod, container, image, claimant, handler).await? == Kind::Other {
            return Ok(None);
        }
    }
    Ok((!asked.is_empty()).then(|| (claimant.clone(), handler.to_owned())))
}

async fn kind_of(
    context: &PodContext,
    pod: &Pod,
    container: &Container,
    image: String,
    claimant: &Arc<Runtime>,
    handler: &str,
) -> Result<Kind, String> {
    let spec = ImageSpec {
        image: image.clone(),
        user_specified_image: container.image.clone().unwrap_or_default(),
        ..ImageSpec::default()
    };
    let unknown = |error: CriError| format!("cannot tell which runtime the image \"{image}\" is for: {error}");
    let own = ImageSpec { runtime_handler: handler.to_owned(), ..spec.clone() };
    let found = match claimant.there().await {
        Ok(()) => claimant.image(own.clone()).await.map_err(unknown),
        Err(message) => Err(format!("cannot tell which runtime the image \"{image}\" is for: {message}")),
    };
    if let Ok(Some(_)) = found {
        return Ok(Kind::Own);
    }
    // What the default runtime has already needs no registry, nor the claimant. One that is not running yet has nothing.
    let default = context.shared.runtimes.route("").map_err(|error| error.to_string())?;
    if default.image(spec).await.is_ok_and(|found| found.is_some()) {
        return Ok(Kind::Other);
    }
    found?;
    if container.image_pull_policy.as_deref() == Some("Never") {
        return Ok(Kind::Other);
    }
    match acts::pull(context, pod, claimant, &own).await {
        Ok(_) => Ok(Kind::Own),
        // The registry may be back soon, or its settings be repaired, or the disk have room again. To guess would bind the pod
        // to the wrong runtime for good.
        Err(error) if error.is_unsure() || was_not_found_out(&error) => Err(unknown(error)),
        // Of another kind; or it cannot be had, which the default runtime says as well as any.
        Err(error) if error.is_other_kind() || matches!(error.code, Code::NotFound | Code::PermissionDenied) => {
            tracing::debug!(pod = %context.key, image, %error, "the image is left to the default runtime");
            Ok(Kind::Other)
        }
        // It is of this kind, and something is wrong with it: the claimant says what.
        Err(_) => Ok(Kind::Own),
    }
}

/// Runtimes say of most faults of a registry no more than that there is one; an image whose signature is missed is no such.
/// And what is wrong with a runtime says nothing of the image.
fn was_not_found_out(error: &CriError) -> bool {
    match error.code {
        Code::Unknown => !error.message.starts_with(SIGNATURE_FAULT),
        code => code == Code::Internal,
    }
}
