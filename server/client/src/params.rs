//! The parameters of requests and how they are written into a query.

use std::fmt::{self, Write as _};

use serde::Serialize;

/// What a list, an informer or a deletecollection selects, and which page of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListParams {
    pub label_selector: Option<String>,
    pub field_selector: Option<String>,
    /// Objects in a page; all when `None`.
    pub limit: Option<u32>,
    pub continue_token: Option<String>,
    /// `"0"`: whatever the server has at hand; `None`: the newest.
    pub resource_version: Option<String>,
}

impl ListParams {
    #[must_use]
    pub fn labels(mut self, selector: impl Into<String>) -> Self {
        self.label_selector = Some(selector.into());
        self
    }

    #[must_use]
    pub fn fields(mut self, selector: impl Into<String>) -> Self {
        self.field_selector = Some(selector.into());
        self
    }

    #[must_use]
    pub fn limit(mut self, limit: u32) -> Self {
        self.limit = Some(limit);
        self
    }

    pub(crate) fn query(&self) -> Query {
        Query::default()
            .text("labelSelector", self.label_selector.as_deref())
            .text("fieldSelector", self.field_selector.as_deref())
            .text("limit", self.limit.map(|n| n.to_string()).as_deref())
            .text("continue", self.continue_token.as_deref())
            .text("resourceVersion", self.resource_version.as_deref())
    }
}

/// What a watch selects and where it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchParams {
    pub label_selector: Option<String>,
    pub field_selector: Option<String>,
    /// Events after this revision; `None`: from now on, after what exists.
    pub resource_version: Option<String>,
    /// Begin with what exists, ended by a bookmark that is [`crate::WatchEvent::Bookmark`] with `initial_end`.
    pub send_initial_events: bool,
    pub bookmarks: bool,
    /// The server ends the watch after this time; its own choice when `None`.
    pub timeout_seconds: Option<u32>,
}

impl Default for WatchParams {
    fn default() -> Self {
        Self {
            label_selector: None,
            field_selector: None,
            resource_version: None,
            send_initial_events: false,
            bookmarks: true,
            timeout_seconds: None,
        }
    }
}

impl WatchParams {
    /// Watches what `params` selects.
    pub fn selecting(params: &ListParams) -> Self {
        Self {
            label_selector: params.label_selector.clone(),
            field_selector: params.field_selector.clone(),
            ..Self::default()
        }
    }

    #[must_use]
    pub fn labels(mut self, selector: impl Into<String>) -> Self {
        self.label_selector = Some(selector.into());
        self
    }

    #[must_use]
    pub fn fields(mut self, selector: impl Into<String>) -> Self {
        self.field_selector = Some(selector.into());
        self
    }

    #[must_use]
    pub fn from_revision(mut self, revision: impl Into<String>) -> Self {
        self.resource_version = Some(revision.into());
        self
    }

    /// Begins with what exists (a watch-list).
    #[must_use]
    pub fn with_initial_events(mut self) -> Self {
        self.send_initial_events = true;
        self
    }

    pub(crate) fn query(&self) -> Query {
        let initial = self.send_initial_events;
        Query::default()
            .text("watch", Some("1"))
            .text("labelSelector", self.label_selector.as_deref())
            .text("fieldSelector", self.field_selector.as_deref())
            .text("resourceVersion", self.resource_version.as_deref())
            .text("sendInitialEvents", initial.then_some("true"))
            .text("resourceVersionMatch", initial.then_some("NotOlderThan"))
            .text("allowWatchBookmarks", self.bookmarks.then_some("true"))
            .text("timeoutSeconds", self.timeout_seconds.map(|n| n.to_string()).as_deref())
    }
}

/// What becomes of the dependents of a deleted object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Propagation {
    Orphan,
    Background,
    Foreground,
}

/// The body of a delete.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeleteParams {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub propagation_policy: Option<Propagation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preconditions: Option<Preconditions>,
}

/// The deletion fails with a conflict unless these hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Preconditions {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
}

impl DeleteParams {
    #[must_use]
    pub fn grace(mut self, seconds: i64) -> Self {
        self.grace_period_seconds = Some(seconds);
        self
    }

    #[must_use]
    pub fn propagation(mut self, policy: Propagation) -> Self {
        self.propagation_policy = Some(policy);
        self
    }

    /// Deletes only the object with this UID, not another of the same name.
    #[must_use]
    pub fn uid(mut self, uid: impl Into<String>) -> Self {
        self.preconditions.get_or_insert_default().uid = Some(uid.into());
        self
    }

    #[must_use]
    pub fn revision(mut self, resource_version: impl Into<String>) -> Self {
        self.preconditions.get_or_insert_default().resource_version = Some(resource_version.into());
        self
    }
}

/// A query string in the making.
#[derive(Debug, Default)]
pub(crate) struct Query(String);

impl Query {
    pub(crate) fn text(mut self, name: &str, value: Option<&str>) -> Self {
        if let Some(value) = value {
            self.0.push(if self.0.is_empty() { '?' } else { '&' });
            self.0.push_str(name);
            self.0.push('=');
            escape(value, &mut self.0);
        }
        self
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn escape(value: &str, out: &mut String) {
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            other => write!(out, "%{other:02X}").expect("writing into a String cannot fail"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn queries_are_escaped() {
        let params = ListParams::default().labels("app in (a,b),!c").fields("spec.nodeName=n-1").limit(2);
        expect!["?labelSelector=app%20in%20%28a%2Cb%29%2C%21c&fieldSelector=spec.nodeName%3Dn-1&limit=2"]
            .assert_eq(&params.query().to_string());
        let watch = WatchParams::selecting(&params).with_initial_events();
        expect!["?watch=1&labelSelector=app%20in%20%28a%2Cb%29%2C%21c&fieldSelector=spec.nodeName%3Dn-1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"]
            .assert_eq(&watch.query().to_string());
    }
}
