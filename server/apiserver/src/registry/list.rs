//! get and list: answered from a snapshot of the store, as bytes.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use coracle_api::meta::Revision;
use coracle_api::status::Status;
use coracle_store::{Entry, Key, Snapshot, SnapshotError};
use serde::{Deserialize, Serialize};

use super::Registry;
use super::catalog::Resource;
use super::options::{Asked, ListOptions, VersionMatch};
use super::selection::Selection;

/// A page of objects, in the stored version.
pub struct Page {
    pub entries: Vec<Arc<Entry>>,
    pub revision: Revision,
    /// Empty on the last page.
    pub continue_token: String,
    /// Only for lists without selectors.
    pub remaining: Option<usize>,
}

/// Why there is no page.
pub enum ListError {
    Status(Status),
    /// The pages of this list can no longer be had: 410, with a token that goes on in the newest state.
    PageExpired {
        status: Status,
        continue_token: String,
    },
}

impl From<Status> for ListError {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

/// What a continue token holds. Revision -1 goes on in whatever is newest.
#[derive(Serialize, Deserialize)]
struct Token {
    v: String,
    rv: i64,
    start: String,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";
const PAGE_EXPIRED: &str = "The provided continue parameter is too old to display a consistent list result. You can start \
    a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of \
    the results. Continuing with the provided token results in an inconsistent list - objects that were created, \
    modified, or deleted between the time the first chunk was returned and now may show up in the list.";
const LIST_EXPIRED: &str = "The resourceVersion for the provided list is too old.";

impl Registry {
    /// The stored object, or 404. A `resourceVersion` that is still to come is an error.
    pub fn get(&self, resource: &Resource, namespace: &Arc<str>, name: &str, at: Asked) -> Result<Arc<Entry>, Status> {
        let snapshot = self.store.snapshot();
        check_not_future(&snapshot, at)?;
        let key = resource.store_key(namespace, name);
        snapshot.get(&key).cloned().ok_or_else(|| Status::not_found(&resource.group_resource(), name))
    }

    pub fn list(&self, resource: &Resource, namespace: &Arc<str>, options: ListOptions) -> Result<Page, ListError> {
        let (start, snapshot) = self.place(resource, &options)?;
        // A list that takes what is at hand is whole, as from upstream's cache.
        let limit = if options.version == Asked::Any { 0 } else { options.limit };
        let selection = Selection::new(resource, namespace, options.labels, options.fields)?;
        if let Some(name) = &selection.name
            && let Some(namespace) = single_namespace(resource, &selection)
        {
            let found = snapshot.get(&resource.store_key(&namespace, name)).filter(|entry| selection.matches(entry));
            let entries = found.cloned().into_iter().collect();
            let (revision, continue_token) = (snapshot.revision(), String::new());
            return Ok(Page { entries, revision, continue_token, remaining: None });
        }
        let page = page(&snapshot, &selection, start.as_ref(), limit);
        if !page.continue_token.is_empty() {
            self.store.keep(&snapshot);
        }
        Ok(page)
    }

    /// Where a list begins and in which state: that of its first page, of the revision asked for, or the newest.
    fn place(&self, resource: &Resource, options: &ListOptions) -> Result<(Option<Key>, Snapshot), ListError> {
        if options.continue_token.is_empty() {
            return Ok((None, self.state_for(options)?));
        }
        if let Asked::At(_) = options.version {
            let text = "specifying resource version is not allowed when using continue";
            return Err(Status::bad_request(text).into());
        }
        let token = decode_token(&options.continue_token)?;
        let (namespace, name) = token.start.split_once('/').unwrap_or(("", &token.start));
        let start = resource.store_key(&Arc::from(namespace), name);
        let Ok(revision) = u64::try_from(token.rv) else { return Ok((Some(start), self.store.snapshot())) };
        match self.store.snapshot_at(Revision(revision)) {
            Ok(snapshot) => Ok((Some(start), snapshot)),
            Err(SnapshotError::Compacted { .. }) => Err(ListError::PageExpired {
                status: Status::expired(PAGE_EXPIRED),
                continue_token: encode_token(&Token { rv: -1, ..token }),
            }),
            Err(error @ SnapshotError::Future { .. }) => {
                Err(Status::bad_request(format!("continue key is not valid: {error}")).into())
            }
        }
    }

    fn state_for(&self, options: &ListOptions) -> Result<Snapshot, Status> {
        let newest = self.store.snapshot();
        let Asked::At(revision) = options.version else { return Ok(newest) };
        let exact = match options.version_match {
            VersionMatch::Exact => true,
            VersionMatch::NotOlderThan => false,
            // Upstream's old rule for pages that name a revision.
            VersionMatch::Unset => options.limit > 0,
        };
        check_not_future(&newest, options.version)?;
        if !exact {
            return Ok(newest);
        }
        self.store.snapshot_at(revision).map_err(|error| match error {
            SnapshotError::Compacted { .. } => Status::expired(LIST_EXPIRED),
            SnapshotError::Future { asked, current } => Status::too_large_resource_version(asked.0, current.0, 1),
        })
    }
}

/// The namespace that all selected objects must be in, "" for cluster-scoped ones.
fn single_namespace(resource: &Resource, selection: &Selection) -> Option<Arc<str>> {
    if resource.def.namespaced { selection.prefix.namespace.clone() } else { Some(Arc::from("")) }
}

pub fn check_not_future(snapshot: &Snapshot, asked: Asked) -> Result<(), Status> {
    match asked {
        Asked::At(revision) if revision > snapshot.revision() => {
            Err(Status::too_large_resource_version(revision.0, snapshot.revision().0, 1))
        }
        Asked::At(_) | Asked::Any | Asked::Newest => Ok(()),
    }
}

fn page(snapshot: &Snapshot, selection: &Selection, start: Option<&Key>, limit: usize) -> Page {
    let revision = snapshot.revision();
    let mut range = snapshot.range(&selection.prefix, start);
    if limit == 0 {
        let entries = range.filter(|entry| selection.matches(entry)).cloned().collect();
        return Page { entries, revision, continue_token: String::new(), remaining: None };
    }
    let mut entries: Vec<Arc<Entry>> =
        range.by_ref().filter(|entry| selection.matches(entry)).take(limit).cloned().collect();
    // One more is looked for, so that the last page has no token.
    let more = range.find(|entry| selection.matches(entry)).is_some();
    if !more || entries.is_empty() {
        return Page { entries, revision, continue_token: String::new(), remaining: None };
    }
    let last = &entries[entries.len() - 1].key;
    let start = format!("{}/{}", last.namespace, last.name);
    let rv = i64::try_from(revision.0).unwrap_or(i64::MAX);
    let continue_token = encode_token(&Token { v: TOKEN_VERSION.to_owned(), rv, start });
    let remaining = selection.is_everything().then(|| range.count() + 1);
    entries.shrink_to_fit();
    Page { entries, revision, continue_token, remaining }
}

fn encode_token(token: &Token) -> String {
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(token).expect("a token of strings and numbers becomes JSON"))
}

fn decode_token(text: &str) -> Result<Token, Status> {
    let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('='));
    let token = bytes.ok().and_then(|bytes| serde_json::from_slice::<Token>(&bytes).ok());
    match token {
        Some(token) if token.v == TOKEN_VERSION && token.rv != 0 => Ok(token),
        Some(token) if token.v == TOKEN_VERSION => Err(Status::bad_request(
            "continue key is not valid: incorrect encoded start resourceVersion (version meta.k8s.io/v1)",
        )),
        Some(_) => {
            Err(Status::bad_request("continue key is not valid: server does not recognize this encoded version"))
        }
        None => Err(Status::bad_request("continue key is not valid")),
    }
}

/// The list as it is sent: items are spliced from stored bytes, without their own apiVersion and kind as upstream has it.
pub fn encode(resource: &Resource, page: &Page) -> Result<Bytes, Status> {
    let body: usize = page.entries.iter().map(|entry| entry.json.len() + 1).sum();
    let mut out = Vec::with_capacity(body + 512);
    open_list(&mut out, &resource.def.list_kind, &resource.def.api_version(), page);
    for (at, entry) in page.entries.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.push(b'{');
        if resource.conversion.shares_bytes() {
            out.extend_from_slice(resource.header.body(&entry.json));
        } else {
            let served = resource.conversion.served_json(resource, &entry.json)?;
            out.extend_from_slice(resource.served_header.body(&served));
        }
    }
    out.extend_from_slice(b"]}\n");
    Ok(out.into())
}

/// Writes everything up to the first item.
pub fn open_list(out: &mut Vec<u8>, kind: &str, api_version: &str, page: &Page) {
    let mut metadata = serde_json::Map::new();
    metadata.insert("resourceVersion".to_owned(), page.revision.to_string().into());
    if !page.continue_token.is_empty() {
        metadata.insert("continue".to_owned(), page.continue_token.clone().into());
    }
    if let Some(remaining) = page.remaining {
        metadata.insert("remainingItemCount".to_owned(), remaining.into());
    }
    let (kind, api_version) = (serde_json::Value::from(kind), serde_json::Value::from(api_version));
    let metadata = serde_json::Value::Object(metadata);
    out.extend_from_slice(
        format!("{{\"kind\":{kind},\"apiVersion\":{api_version},\"metadata\":{metadata},\"items\":[").as_bytes(),
    );
}
