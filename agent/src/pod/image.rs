//! Names of images, and the credentials to pull them with.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use coracle_cri::v1::AuthConfig;
use serde::Deserialize;
use std::collections::BTreeMap;

use crate::sources::Source;

/// Docker Hub, as its secrets call it.
const DOCKER: &str = "index.docker.io";

/// The name with `:latest` if it has neither tag nor digest; an error, as kubelet words it, if it is no name.
pub fn with_default_tag(image: &str) -> Result<String, String> {
    let fault = |what: &str| Err(format!("couldn't parse image name \"{image}\": {what}"));
    let (rest, digest) = match image.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (image, None),
    };
    if let Some(digest) = digest {
        let valid = digest.split_once(':').is_some_and(|(algorithm, hex)| {
            !algorithm.is_empty() && hex.len() >= 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
        });
        if !valid {
            return fault("invalid reference format");
        }
    }
    let slash = rest.rfind('/').map_or(0, |at| at + 1);
    let (name, tag) = match rest[slash..].split_once(':') {
        Some((last, tag)) => (&rest[..slash + last.len()], Some(tag)),
        None => (rest, None),
    };
    if let Some(tag) = tag {
        let valid = !tag.is_empty()
            && tag.len() <= 128
            && !tag.starts_with(['.', '-'])
            && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if !valid {
            return fault("invalid reference format");
        }
    }
    let (registry, path) = split_registry(name);
    if registry.is_some_and(|registry| registry.is_empty()) || path.is_empty() {
        return fault("invalid reference format");
    }
    if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return fault(&format!("invalid reference format: repository name ({path}) must be lowercase"));
    }
    let part_is_valid = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte))
            && part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.ends_with(|c: char| c.is_ascii_alphanumeric())
    };
    if !path.split('/').all(part_is_valid) {
        return fault("invalid reference format");
    }
    Ok(if tag.is_none() && digest.is_none() { format!("{image}:latest") } else { image.to_owned() })
}

/// The registry, if the first part of a name is one, and the rest.
fn split_registry(name: &str) -> (Option<&str>, &str) {
    match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (Some(first), rest),
        Some(_) | None => (None, name),
    }
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, DockerAuth>,
}

#[derive(Clone, Deserialize)]
struct DockerAuth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
}

/// The credentials that pull secrets hold for an image, the most specific first. Without any the pull is anonymous.
pub fn credentials(image: &str, secrets: &[&Source]) -> Vec<AuthConfig> {
    let repository = repository(image);
    let mut found: Vec<(usize, AuthConfig)> = Vec::new();
    for secret in secrets {
        for (registry, auth) in auths(secret) {
            let place = registry.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
            let place = place.trim_end_matches("/v1").trim_end_matches("/v2");
            let (host, path) = place.split_once('/').unwrap_or((place, ""));
            let place = format!("{}/{path}", host_of(host));
            if matches(&place, &repository) {
                found.push((place.len(), config(&auth, &registry)));
            }
        }
    }
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    found.into_iter().map(|(_, auth)| auth).collect()
}

fn auths(secret: &Source) -> BTreeMap<String, DockerAuth> {
    if let Some(bytes) = secret.values.get(".dockerconfigjson") {
        return serde_json::from_slice::<DockerConfig>(bytes).map(|config| config.auths).unwrap_or_else(|error| {
            tracing::warn!(%error, "a pull secret's .dockerconfigjson cannot be read");
            BTreeMap::new()
        });
    }
    let Some(bytes) = secret.values.get(".dockercfg") else { return BTreeMap::new() };
    serde_json::from_slice(bytes).unwrap_or_else(|error| {
        tracing::warn!(%error, "a pull secret's .dockercfg cannot be read");
        BTreeMap::new()
    })
}

fn config(auth: &DockerAuth, server: &str) -> AuthConfig {
    let decoded = STANDARD.decode(&auth.auth).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
    let (username, password) = match pair {
        Some((user, password)) if auth.username.is_empty() => (user.to_owned(), password.to_owned()),
        Some(_) | None => (auth.username.clone(), auth.password.clone()),
    };
    AuthConfig {
        username,
        password,
        auth: auth.auth.clone(),
        server_address: server.to_owned(),
        identity_token: auth.identity_token.clone(),
        registry_token: String::new(),
    }
}

/// `registry/path`, with Docker's defaults for what is left out.
fn repository(image: &str) -> String {
    let name = image.split('@').next().unwrap_or(image);
    let slash = name.rfind('/').map_or(0, |at| at + 1);
    let name = name[slash..].find(':').map_or(name, |at| &name[..slash + at]);
    let (registry, path) = split_registry(name);
    match host_of(registry.unwrap_or(DOCKER)) {
        DOCKER if !path.contains('/') => format!("{DOCKER}/library/{path}"),
        host => format!("{host}/{path}"),
    }
}

/// Docker Hub has two names, in images as in secrets.
fn host_of(registry: &str) -> &str {
    if registry.eq_ignore_ascii_case("docker.io") || registry.eq_ignore_ascii_case(DOCKER) { DOCKER } else { registry }
}

/// Whether a registry (whose host parts may be `*`), perhaps with a path, holds the repository.
fn matches(place: &str, repository: &str) -> bool {
    let (host, path) = place.split_once('/').unwrap_or((place, ""));
    let (own_host, own_path) = repository.split_once('/').unwrap_or((repository, ""));
    let (wanted, own): (Vec<_>, Vec<_>) = (host.split('.').collect(), own_host.split('.').collect());
    let hosts = wanted.len() == own.len()
        && wanted.iter().zip(&own).all(|(wanted, own)| *wanted == "*" || wanted.eq_ignore_ascii_case(own));
    let path = path.trim_end_matches('/');
    hosts
        && (path.is_empty()
            || own_path == path
            || own_path.strip_prefix(path).is_some_and(|rest| rest.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::*;

    fn check_name(image: &str, expected: Expect) {
        expected.assert_eq(&with_default_tag(image).unwrap_or_else(|error| error));
    }

    #[test]
    fn names_get_a_tag_or_a_reason() {
        check_name("hello", expect!["hello:latest"]);
        check_name("hello:dev", expect!["hello:dev"]);
        check_name("localhost:5000/a/b", expect!["localhost:5000/a/b:latest"]);
        check_name(
            "Hello",
            expect![[
                r#"couldn't parse image name "Hello": invalid reference format: repository name (Hello) must be lowercase"#
            ]],
        );
        check_name("a//b", expect![[r#"couldn't parse image name "a//b": invalid reference format"#]]);
        check_name("a:b:c", expect![[r#"couldn't parse image name "a:b:c": invalid reference format"#]]);
        check_name("", expect![[r#"couldn't parse image name "": invalid reference format"#]]);
    }

    #[test]
    fn the_most_specific_credentials_come_first() {
        let auth = |user: &str| json!({"auth": STANDARD.encode(format!("{user}:pw"))});
        let config = json!({"auths": {
            "https://index.docker.io/v1/": auth("hub"), "example.com": auth("host"), "example.com/team": auth("team"),
            "*.example.com": auth("star"), "Docker.io/team": auth("hub-team"),
        }});
        let secret: k8s_openapi::api::core::v1::Secret =
            serde_json::from_value(json!({"data": {".dockerconfigjson": STANDARD.encode(config.to_string())}}))
                .unwrap();
        let source = Source::from(secret);
        let users = |image: &str| {
            let users: Vec<_> = credentials(image, &[&source]).into_iter().map(|auth| auth.username).collect();
            users.join(",")
        };
        for image in ["nginx", "library/nginx", "docker.io/nginx:1", "Docker.io/library/nginx", "index.docker.io/nginx"]
        {
            assert_eq!(users(image), "hub", "{image}");
        }
        assert_eq!(users("team/app"), "hub-team,hub");
        assert_eq!(users("docker.io/team/app:1"), "hub-team,hub");
        assert_eq!(users("EXAMPLE.com/app"), "host");
        assert_eq!(users("example.com/team/app:1"), "team,host");
        assert_eq!(users("example.com/teams/app:1"), "host");
        assert_eq!(users("a.example.com/app@sha256:1"), "star");
        assert_eq!(users("ghcr.io/app"), "");
    }
}
