//! Many at once: nothing is lost, doubled or torn.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::link::{Link, Protocol};
use crate::site::{MAPS, Site, config_map};
use crate::within_deadline;

#[test]
fn generated_names_are_unique() {
    within_deadline(async {
        let site = Site::new().await;
        let link = site.link(&site.admin(), Protocol::Http2).await;
        let mut tasks = JoinSet::new();
        for _ in 0..300 {
            let mut link = link.share();
            tasks.spawn(async move {
                let made = link.post(MAPS, &json!({"metadata": {"generateName": "many-"}})).await.expect(201).json();
                made["metadata"]["name"].as_str().unwrap().to_owned()
            });
        }
        let names: Vec<String> = tasks.join_all().await;
        let unique: BTreeSet<&String> = names.iter().collect();
        assert_eq!(unique.len(), 300);
    });
}

#[test]
fn one_of_many_who_create_a_name_gets_it() {
    within_deadline(async {
        let site = Site::new().await;
        let link = site.link(&site.admin(), Protocol::Http2).await;
        for round in 0..10 {
            let mut tasks = JoinSet::new();
            for writer in 0..20 {
                let mut link = link.share();
                tasks.spawn(async move {
                    let wanted = config_map(&format!("one-{round}"), &writer.to_string());
                    let answer = link.post(MAPS, &wanted).await;
                    (answer.code, writer)
                });
            }
            let outcomes = tasks.join_all().await;
            let winners: Vec<i32> =
                outcomes.iter().filter(|(code, _)| *code == 201).map(|(_, writer)| *writer).collect();
            assert_eq!(winners.len(), 1, "{outcomes:?}");
            assert!(outcomes.iter().all(|(code, _)| matches!(code, 201 | 409)), "{outcomes:?}");
            let stored = link.share().get(&format!("{MAPS}/one-{round}")).await.expect(200).json();
            assert_eq!(stored["data"]["value"], winners[0].to_string());
        }
    });
}

/// Adds one to the map's number, as often as it takes.
async fn increment(link: &mut Link, path: &str) -> usize {
    for round in 1.. {
        let mut object = link.get(path).await.expect(200).json();
        let number: u64 = object["data"]["value"].as_str().and_then(|text| text.parse().ok()).expect("a number");
        object["data"]["value"] = (number + 1).to_string().into();
        match link.put(path, &object).await {
            answer if answer.code == 200 => return round,
            answer => assert_eq!(answer.code, 409, "{}", answer.text()),
        }
    }
    unreachable!("the loop ends only with an answer")
}

#[test]
fn writers_who_name_their_revision_lose_no_update() {
    within_deadline(async {
        let site = Site::new().await;
        let link = site.link(&site.admin(), Protocol::Http2).await;
        link.share().post(MAPS, &config_map("counter", "0")).await.expect(201);
        let mut tasks = JoinSet::new();
        for _ in 0..64 {
            let mut link = link.share();
            tasks.spawn(async move {
                let path = format!("{MAPS}/counter");
                increment(&mut link, &path).await + increment(&mut link, &path).await
            });
        }
        let rounds: usize = tasks.join_all().await.into_iter().sum();
        let stored = link.share().get(&format!("{MAPS}/counter")).await.expect(200).json();
        assert_eq!(stored["data"]["value"], "128");
        assert!(rounds > 128, "64 writers on one object do get into each other's way");
    });
}

#[test]
fn patches_without_a_revision_all_arrive() {
    within_deadline(async {
        let site = Site::new().await;
        let link = site.link(&site.admin(), Protocol::Http2).await;
        link.share().post(MAPS, &config_map("patched", "0")).await.expect(201);
        let mut tasks = JoinSet::new();
        for writer in 0..64 {
            let mut link = link.share();
            tasks.spawn(async move {
                let headers = [("content-type", "application/merge-patch+json")];
                let patch = json!({"data": {format!("k{writer}"): "v"}}).to_string();
                let path = format!("{MAPS}/patched");
                link.whole(crate::link::request(http::Method::PATCH, &path, &headers, patch)).await.expect(200);
            });
        }
        tasks.join_all().await;
        let stored = link.share().get(&format!("{MAPS}/patched")).await.expect(200).json();
        assert_eq!(stored["data"].as_object().unwrap().len(), 65);
    });
}

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().expect("a list has items").iter();
    items.map(|item| format!("{}@{}", item["metadata"]["name"], item["metadata"]["resourceVersion"])).collect()
}

/// Creates, changes and deletes until told to stop.
async fn churn(mut link: Link, writer: usize, stop: Arc<AtomicBool>) {
    for round in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let name = format!("churn-{writer}-{}", round % 10);
        let path = format!("{MAPS}/{name}");
        match round % 3 {
            0 => drop(link.post(MAPS, &config_map(&name, &round.to_string())).await),
            1 => drop(link.put(&path, &config_map(&name, &round.to_string())).await),
            _ => drop(link.delete(&path).await),
        }
    }
}

#[test]
fn pages_show_one_revision_while_others_write() {
    within_deadline(async {
        let site = Site::new().await;
        let link = site.link(&site.admin(), Protocol::Http2).await;
        for number in 0..40 {
            link.share().post(MAPS, &config_map(&format!("still-{number:02}"), "v")).await.expect(201);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for writer in 0..4 {
            tasks.spawn(churn(link.share(), writer, stop.clone()));
        }
        let mut reader = site.link(&site.admin(), Protocol::Http1).await;
        let mut revisions = BTreeSet::new();
        // Until others have written a few times between, which is nearly at once.
        for limit in [1, 7, 13, 40].into_iter().cycle() {
            if revisions.len() > 4 {
                break;
            }
            let mut collected = Vec::new();
            let mut first = reader.get(&format!("{MAPS}?limit={limit}")).await.expect(200).json();
            let revision = first["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
            loop {
                assert_eq!(first["metadata"]["resourceVersion"], revision.as_str());
                collected.extend(names(&first));
                let Some(token) = first["metadata"]["continue"].as_str() else { break };
                let next = format!("{MAPS}?limit={limit}&continue={token}");
                first = reader.get(&next).await.expect(200).json();
            }
            let whole = format!("{MAPS}?resourceVersion={revision}&resourceVersionMatch=Exact");
            assert_eq!(collected, names(&reader.get(&whole).await.expect(200).json()));
            revisions.insert(revision);
        }
        stop.store(true, Ordering::Relaxed);
        tasks.join_all().await;
    });
}
