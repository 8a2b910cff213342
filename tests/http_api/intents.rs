//! Intents over HTTP: what a provisioner in any language reads, and what it is answered.

use std::sync::Arc;

use longshore::core::Settings;
use longshore::model::{DeclaredClass, Id, Kind, Offer, Resources};
use serde_json::{Value, json};

use super::support::Server;

fn classes(settings: &mut Settings) {
    let offer = Offer {
        kinds: [Kind::Job].into(),
        queues: Default::default(),
        arch: "amd64".into(),
        os: "linux".into(),
        labels: [("zone".into(), "eu".into())].into(),
        taints: Default::default(),
        group: None,
        resources: Some(Resources::new(2500, 8 << 30)),
        slots: 2,
        open: false,
    };
    let id = Id::parse("small").expect("a name");
    settings.classes = vec![DeclaredClass { id, offer: Arc::new(offer), cost: 2.0, max: 3 }];
}

async fn only(server: &Server) -> Value {
    server.until("something is asked for", |state| !state.intents().is_empty()).await;
    server.get("/v1/intents").await.is(200).body["intents"][0].clone()
}

fn registration(class: &str, intent: Value, cpu: Value) -> Value {
    json!({"id": "s1", "incarnation": "i1", "class": class, "intent": intent, "arch": "amd64", "os": "linux",
        "labels": {"zone": "eu"}, "resources": {"cpu": cpu, "memory": "8GiB"}, "slots": 2})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_intent_says_all_that_is_needed_to_start_a_runner_which_then_gets_the_task() {
    let server = Server::start_with(classes).await;
    assert_eq!(server.get("/v1/intents").await.is(200).body, json!({"intents": [], "next": null}));
    server.submit(json!({"id": "t1"})).await;
    let intent = only(&server).await;
    assert_eq!(
        intent["offer"],
        json!({"kinds": ["job"], "queues": [], "arch": "amd64", "os": "linux",
        "labels": {"zone": "eu"}, "taints": [], "resources": {"cpu": "2500m", "memory": 8_u64 << 30}, "slots": 2,
        "cost": 2.0})
    );
    let said = |name: &str| intent[name].clone();
    assert_eq!((said("class"), said("state"), said("count")), (json!("small"), json!("asked"), json!(1)));
    assert_eq!((said("tasks"), said("waiting"), said("asked")), (json!(["t1"]), json!(1), json!(1)));
    let why = server.get("/v1/tasks/t1/why").await.is(200).body.to_string();
    assert!(why.contains("an intent asks for 1 runner of class small since"), "{why}");

    let id = intent["id"].as_str().expect("a name").to_owned();
    let acked = server.post(&format!("/v1/intents/{id}/ack"), json!({"count": 1})).await.is(200).body;
    assert_eq!((&acked["state"], &acked["starting"]), (&json!("acknowledged"), &json!(1)));
    let scrape = server.get("/metrics").await.is(200).text;
    assert!(scrape.lines().any(|line| line == "longshore_intents{state=\"acknowledged\"} 1"), "{scrape}");
    server.post("/v1/runners", registration("small", json!(id), json!("2500m"))).await.is(200);
    server.until("it is assigned", |state| state.counts().assigned == 1).await;
    assert_eq!(server.get("/v1/intents").await.is(200).body, json!({"intents": [], "next": null}));
    let history = server.get("/v1/history").await.is(200).text;
    for change in ["asked", "acknowledged", "arrived"] {
        assert!(history.contains(&format!("\"change\":\"{change}\"")), "{change} in {history}");
    }
    server.is_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_how_an_intent_stands_is_refused_and_changes_nothing() {
    let server = Server::start_with(classes).await;
    server.post("/v1/intents/nobody/ack", "").await.problem(404, "unknown_intent", &["nobody", "withdrawn"]);
    server.post("/v1/intents/nobody/decline", "").await.problem(404, "unknown_intent", &["nobody"]);
    server.submit(json!({"id": "t1"})).await;
    let id = only(&server).await["id"].as_str().expect("a name").to_owned();
    let ack = format!("/v1/intents/{id}/ack");
    server.post(&ack, json!({"count": 0})).await.problem(400, "malformed", &["count", "1"]);
    server.post(&ack, json!({"count": 2})).await.problem(409, "conflict", &["asks for 1", "not for 2"]);
    server.post(&ack, "").await.is(200);
    server.post(&ack, "").await.problem(409, "conflict", &["acknowledged already", "start none"]);
    let small = registration("small", Value::Null, json!(1));
    server.post("/v1/runners", small).await.problem(
        409,
        "registration_refused",
        &["resources.cpu (1)", "less than 2.5", "[[class]]"],
    );
    let other = registration("other", json!(id), json!(4));
    server.post("/v1/runners", other).await.problem(
        409,
        "registration_refused",
        &["asks for class \"small\"", "other"],
    );

    let decline = format!("/v1/intents/{id}/decline");
    let declined = server.post(&decline, json!({"reason": "no quota"})).await.is(200).body;
    assert_eq!((&declined["state"], &declined["reason"]), (&json!("declined"), &json!("no quota")));
    assert!(declined["expires"].is_string());
    server.post(&decline, "").await.problem(409, "conflict", &["declined already (no quota)"]);
    server.is_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn intents_are_listed_in_pages() {
    let server = Server::start_with(classes).await;
    server.submit(json!({"id": "t1"})).await;
    server.submit(json!({"id": "t2", "resources": {"cpu": 2}})).await;
    server.submit(json!({"id": "t3", "resources": {"cpu": 2, "memory": "5GiB"}})).await;
    server.until("three shapes ask", |state| state.intents().iter().count() == 3).await;
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let page = server.get(&format!("/v1/intents?limit=2&after={after}")).await.is(200).body;
        let found = page["intents"].as_array().expect("a list");
        assert!(found.len() <= 2);
        seen.extend(found.iter().map(|intent| intent["id"].to_string()));
        match page["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(seen.len(), 3);
    server.get("/v1/intents?limit=0").await.problem(400, "malformed", &["limit", "1"]);
    server.is_sound();
}
