//! Keeps one object of a fixed name in every namespace: the `default` ServiceAccount and the `kube-root-ca.crt` ConfigMap.

use std::sync::Arc;

use coracle_api::meta::ObjectKey;
use coracle_client::{Change, Error, Informer, Kind, ListParams, Outcome, WorkQueue, drive};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::answer::is_namespace_terminating;
use crate::context::Context;
use crate::owner;

const ROOT_CA: &str = "kube-root-ca.crt";
const ROOT_CA_DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using \
     internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across \
     distributions of Kubernetes clusters.";

/// From a namespace and the object that is there to the object as it should be; `None` if it is right.
type Plan<K> = Box<dyn Fn(&str, Option<&K>) -> Option<K> + Send + Sync>;

/// What should be in each namespace.
struct Wanted<K> {
    name: &'static str,
    plan: Plan<K>,
}

pub(crate) fn start_service_account(context: Context) {
    start(context, Wanted { name: "default", plan: Box::new(service_account) });
}

fn service_account(namespace: &str, current: Option<&ServiceAccount>) -> Option<ServiceAccount> {
    let metadata =
        ObjectMeta { name: Some("default".to_owned()), namespace: Some(namespace.to_owned()), ..ObjectMeta::default() };
    current.is_none().then(|| ServiceAccount { metadata, ..ServiceAccount::default() })
}

pub(crate) fn start_root_ca(context: Context, ca_pem: &str) {
    let ca_pem = ca_pem.to_owned();
    start(context, Wanted { name: ROOT_CA, plan: Box::new(move |ns, current| root_ca(&ca_pem, ns, current)) });
}

fn root_ca(ca_pem: &str, namespace: &str, current: Option<&ConfigMap>) -> Option<ConfigMap> {
    const DESCRIPTION: &str = "kubernetes.io/description";
    let mut next = current.cloned().unwrap_or_else(|| ConfigMap {
        metadata: ObjectMeta {
            name: Some(ROOT_CA.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        ..ConfigMap::default()
    });
    next.data = Some([("ca.crt".to_owned(), ca_pem.to_owned())].into());
    let annotations = next.metadata.annotations.get_or_insert_default();
    annotations.insert(DESCRIPTION.to_owned(), ROOT_CA_DESCRIPTION.to_owned());
    (current != Some(&next)).then_some(next)
}

fn start<K: Kind>(context: Context, wanted: Wanted<K>) {
    let namespaces = context.informers.get::<Namespace>();
    let params = ListParams::default().fields(format!("metadata.name={}", wanted.name));
    let objects = context.informers.get_with::<K>(&params);
    let synced = {
        let (namespaces, objects) = (namespaces.clone(), objects.clone());
        async move {
            namespaces.synced().await;
            objects.synced().await;
        }
    };
    context.clone().when(synced, move || run(&context, &namespaces, &objects, wanted));
}

fn run<K: Kind>(context: &Context, namespaces: &Informer<Namespace>, objects: &Informer<K>, wanted: Wanted<K>) {
    let queue: WorkQueue<ObjectKey> = WorkQueue::new();
    let all = {
        let (namespaces, into) = (namespaces.clone(), queue.clone());
        move || namespaces.list().iter().for_each(|n| into.add(owner::key_of(&n.metadata)))
    };
    let (every, into) = (all.clone(), queue.clone());
    context.feed("namespaces", namespaces, move |change| match change {
        Change::Applied { new, .. } => into.add(owner::key_of(&new.metadata)),
        Change::Deleted(_) => {}
        Change::Resync => every(),
    });
    let into = queue.clone();
    context.feed("objects", objects, move |change| match change {
        Change::Applied { new: object, .. } | Change::Deleted(object) => {
            into.add(ObjectKey::cluster(owner::namespace(object.metadata())));
        }
        Change::Resync => all(),
    });
    let keeper =
        Arc::new(Keeper { context: context.clone(), namespaces: namespaces.clone(), objects: objects.clone(), wanted });
    drive(&context.scope, "sync", &queue, 4, move |key| {
        let keeper = keeper.clone();
        async move { keeper.reconcile(&key).await }
    });
}

struct Keeper<K> {
    context: Context,
    namespaces: Informer<Namespace>,
    objects: Informer<K>,
    wanted: Wanted<K>,
}

impl<K: Kind> Keeper<K> {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, Error> {
        let Some(namespace) = self.namespaces.get(key) else { return Ok(Outcome::Done) };
        if namespace.metadata.deletion_timestamp.is_some() {
            return Ok(Outcome::Done);
        }
        let current = self.objects.get(&ObjectKey::new(key.name.clone(), self.wanted.name));
        let Some(next) = (self.wanted.plan)(&key.name, current.as_deref()) else { return Ok(Outcome::Done) };
        let api = self.context.client.namespaced::<K>(&key.name);
        let answer = match current {
            None => api.create(&next).await,
            Some(_) => api.replace(self.wanted.name, &next).await,
        };
        match answer {
            Ok(_) => Ok(Outcome::Done),
            // Somebody else made it, or the namespace is going: what is there now will be heard of.
            Err(error) if error.is_already_exists() || error.is_not_found() => Ok(Outcome::Done),
            Err(error) if is_namespace_terminating(&error) => Ok(Outcome::Done),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn check_root_ca(ca: &str, current: Option<&str>, expected: expect_test::Expect) {
        let current: Option<ConfigMap> = current.map(|json| serde_json::from_str(json).unwrap());
        let text = match root_ca(ca, "shop", current.as_ref()) {
            None => "right".to_owned(),
            Some(map) => format!("{} {:?}", owner::key_of(&map.metadata), map.data.unwrap_or_default()),
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn root_ca_is_published_and_put_right() {
        check_root_ca("NEW", None, expect![[r#"shop/kube-root-ca.crt {"ca.crt": "NEW"}"#]]);
        let changed = r#"{"metadata":{"name":"kube-root-ca.crt","namespace":"shop"},"data":{"ca.crt":"OLD","x":"y"}}"#;
        check_root_ca("NEW", Some(changed), expect![[r#"shop/kube-root-ca.crt {"ca.crt": "NEW"}"#]]);
        let right = serde_json::to_string(&root_ca("NEW", "shop", None).unwrap()).unwrap();
        check_root_ca("NEW", Some(&right), expect!["right"]);
    }

    #[test]
    fn service_account_is_made_once_and_left_alone() {
        let made = service_account("shop", None).unwrap();
        expect!["shop/default"].assert_eq(&owner::key_of(&made.metadata).to_string());
        assert!(service_account("shop", Some(&made)).is_none());
    }
}
