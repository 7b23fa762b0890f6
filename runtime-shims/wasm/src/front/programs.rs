//! What a command's first word means in a Wasm container, which has no shell and no file system of programs: the
//! container's own program, or another `.wasm` file of its image. Decided here without I/O.

use serde::{Deserialize, Serialize};

use crate::images::Image;

/// Where a word without a slash is looked for, unless the environment has a PATH.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Programs that a refusal names.
const NAMED: usize = 10;

/// Which program is meant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Program {
    /// The one that the image is run by, or, of a command in a container, the container's.
    #[default]
    Own,
    /// A path in the image.
    File(String),
    /// None, and why.
    Missing(String),
}

/// What is known of the container.
pub(super) struct Known<'a> {
    /// Its own first word.
    pub(super) own: &'a str,
    /// What it runs.
    pub(super) program: &'a Program,
    pub(super) image: &'a Image,
    pub(super) env: &'a [(String, String)],
    pub(super) working_dir: Option<&'a str>,
}

impl Known<'_> {
    /// Does the word name the container's own program?
    pub(super) fn is_own(&self, word: &str) -> bool {
        let entry = self.image.entrypoint.first().or(self.image.cmd.first());
        let is_entry = *self.program == Program::Own;
        let entry = entry.map(String::as_str).filter(|entry| is_entry && entry.ends_with(".wasm"));
        [Some(self.own), entry].into_iter().flatten().any(|own| {
            let file = own.rsplit('/').next().unwrap_or(own);
            word == own
                || word == file
                || file.strip_suffix(".wasm") == Some(word)
                || (word.contains('/') && normal(self.working_dir, word) == normal(None, own))
        })
    }

    /// Paths that the word may name, in the order in which they are tried; as the image spells paths, without a leading
    /// slash.
    pub(super) fn paths(&self, word: &str) -> Vec<String> {
        let mut paths = Vec::new();
        if word.contains('/') {
            paths.push(normal(self.working_dir, word));
        } else {
            let path = self.env.iter().rev().find(|(key, _)| key == "PATH").map_or(PATH, |(_, value)| value.as_str());
            let entry = self.image.entrypoint.first().or(self.image.cmd.first());
            let beside = entry.and_then(|entry| entry.rsplit_once('/')).map(|(dir, _)| dir);
            let dirs = path.split(':').chain(self.working_dir).chain(beside).chain(["/"]);
            paths.extend(dirs.map(|dir| normal(Some(dir), word)));
        }
        let mut tried = Vec::new();
        for path in paths {
            let path = if path.ends_with(".wasm") { path } else { format!("{path}.wasm") };
            if !tried.contains(&path) {
                tried.push(path);
            }
        }
        tried
    }

    /// The word names nothing: in containerd's words, and what could be run instead.
    pub(super) fn missing(&self, word: &str, programs: &[String]) -> String {
        let own = self.own.rsplit('/').next().unwrap_or(self.own);
        let mut others: Vec<String> = programs.iter().take(NAMED).map(|path| format!("/{path}")).collect();
        if programs.len() > NAMED {
            others.push(format!("{} more", programs.len() - NAMED));
        }
        let others =
            if others.is_empty() { String::new() } else { format!("; files of the image: {}", others.join(", ")) };
        format!(
            "exec: {word:?}: executable file not found in $PATH: a Wasm container has no shell, it runs {own} (its own \
             program, with other arguments){others}"
        )
    }
}

/// An absolute path without its first slash, and without the ways to write it differently. `..` stays, and matches
/// nothing.
fn normal(dir: Option<&str>, path: &str) -> String {
    let whole = if path.starts_with('/') { path.to_owned() } else { format!("{}/{path}", dir.unwrap_or("/")) };
    whole.split('/').filter(|part| !part.is_empty() && *part != ".").collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn image(entrypoint: &[&str]) -> Image {
        let digest = format!("sha256:{}", "0".repeat(64));
        let entrypoint: Vec<String> = entrypoint.iter().map(|word| (*word).to_owned()).collect();
        let image = serde_json::json!({
            "name": "docker.io/library/app:1", "id": digest, "wasm": digest, "wasm_bytes": 1, "size_bytes": 1,
            "blobs": [], "entrypoint": entrypoint, "imported_at": 0,
        });
        serde_json::from_value(image).expect("an image")
    }

    fn check(own: &str, entrypoint: &[&str], path: Option<&str>, words: &[&str], expected: Expect) {
        check_in(&Program::Own, own, entrypoint, path, words, expected);
    }

    fn check_in(
        program: &Program,
        own: &str,
        entrypoint: &[&str],
        path: Option<&str>,
        words: &[&str],
        expected: Expect,
    ) {
        let image = image(entrypoint);
        let env: Vec<(String, String)> = path.map(|path| ("PATH".to_owned(), path.to_owned())).into_iter().collect();
        let known = Known { own, program, image: &image, env: &env, working_dir: Some("/work") };
        let told: String = words
            .iter()
            .map(|word| {
                let what = if known.is_own(word) { "own".to_owned() } else { known.paths(word).join(" ") };
                format!("{word}: {what}\n")
            })
            .collect();
        expected.assert_eq(&told);
    }

    #[test]
    fn the_containers_own_program_has_several_names() {
        let words = ["app.wasm", "app", "/bin/app.wasm", "./app.wasm", "run"];
        check(
            "run",
            &["/bin/app.wasm"],
            Some("/x"),
            &words,
            expect![[r#"
            app.wasm: own
            app: own
            /bin/app.wasm: own
            ./app.wasm: work/app.wasm
            run: own
        "#]],
        );
        check(
            "hello.wasm",
            &[],
            Some(""),
            &["hello", "hello.wasm", "sh"],
            expect![[r#"
            hello: own
            hello.wasm: own
            sh: sh.wasm work/sh.wasm
        "#]],
        );
    }

    #[test]
    fn other_words_are_paths_or_looked_for_along_the_path() {
        let words = ["/opt/tool.wasm", "/opt/tool", "sub/tool", "tool", "../../etc/tool.wasm"];
        check(
            "/srv/app.wasm",
            &["/srv/app.wasm"],
            Some("/usr/bin:/opt"),
            &words,
            expect![[r#"
            /opt/tool.wasm: opt/tool.wasm
            /opt/tool: opt/tool.wasm
            sub/tool: work/sub/tool.wasm
            tool: usr/bin/tool.wasm opt/tool.wasm work/tool.wasm srv/tool.wasm tool.wasm
            ../../etc/tool.wasm: work/../../etc/tool.wasm
        "#]],
        );
    }

    #[test]
    fn where_another_program_runs_the_images_own_is_a_path() {
        check_in(
            &Program::File("usr/bin/migrate.wasm".to_owned()),
            "migrate",
            &["/srv/app.wasm"],
            Some("/usr/bin"),
            &["migrate", "app", "/srv/app.wasm"],
            expect![[r#"
                migrate: own
                app: usr/bin/app.wasm work/app.wasm srv/app.wasm app.wasm
                /srv/app.wasm: srv/app.wasm
            "#]],
        );
    }

    #[test]
    fn a_refusal_says_what_can_be_run() {
        let image = image(&["/app.wasm"]);
        let known = Known { own: "/app.wasm", program: &Program::Own, image: &image, env: &[], working_dir: None };
        let programs: Vec<String> = (0..12).map(|number| format!("bin/tool-{number}.wasm")).collect();
        expect![[r#"exec: "sh": executable file not found in $PATH: a Wasm container has no shell, it runs app.wasm (its own program, with other arguments)"#]]
            .assert_eq(&known.missing("sh", &[]));
        let text = known.missing("sh", &programs);
        assert!(text.ends_with("/bin/tool-9.wasm, 2 more"), "{text}");
    }
}
