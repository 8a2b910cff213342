//! What runners and the dispatcher say to each other, as JSON: what is written is read back, what a payload
//! leaves out has its default, and a complaint names the field.

use std::time::Duration;

use longshore::model::*;
use longshore::wire::message::*;

fn id(text: &str) -> Id {
    Id::parse(text).expect("a legal name")
}

fn registration(text: &str) -> Result<Registration, String> {
    read_registration(text.as_bytes(), None).map_err(|why| why.to_string())
}

fn artifact(text: &str) -> ArtifactId {
    ArtifactId::parse(text).expect("a name")
}

fn refused(text: &str) -> String {
    registration(text).expect_err("it is malformed")
}

#[test]
fn a_registration_is_read_back_as_it_was_written() {
    let text = r#"{"id": "r1", "incarnation": "i1", "kinds": ["build"], "queues": ["q1", "q2"], "group": "g1",
        "class": "large", "intent": null, "arch": "amd64", "os": "linux", "labels": {"zone": "eu"},
        "taints": ["spot"], "cost": 2.5, "resources": {"cpu": 7.5, "memory": "32GiB", "gpu": 2}, "slots": 9,
        "artifacts": ["sha256-aa"], "running": [{"id": "t1", "token": "1.2.3"}],
        "last_seen": {"table": "0192e4a0-0000-7000-8000-000000000000", "turn": 7}, "version": "0.3.0",
        "protocol": 1, "v": 1, "news": true}"#;
    let read = registration(text).expect("well-formed");
    assert_eq!(read.offer.resources.as_ref().expect("divisible").cpu, 7_500);
    assert_eq!(read.offer.resources.as_ref().expect("divisible").amount("gpu"), 2);
    assert_eq!(read.offer.queues.len(), 2);
    assert_eq!(read.offer.group, Some(id("g1")));
    assert_eq!(read.cost, 2.5);
    assert_eq!(read.running[0].token.to_string(), "1.2.3");
    assert_eq!(read.artifacts, Some(vec![artifact("sha256-aa")]));
    let again = read_registration(&write_registration(&read), Some(&id("r1"))).expect("our own words");
    assert_eq!(again, read);
}

#[test]
fn what_a_registration_leaves_out_has_its_default() {
    let read = registration(r#"{"id":"r1","incarnation":"i","resources":{"cpu":"500m","memory":1024}}"#)
        .expect("enough");
    assert_eq!((read.offer.slots, read.cost, read.offer.kinds.len()), (100, 1.0, 2));
    assert!(read.offer.queues.is_empty());
    assert_eq!(read.offer.resources, Some(Resources::new(500, 1024)));

    let opaque = registration(r#"{"id":"r1","incarnation":"i","queues":["*"],"slots":6}"#).expect("opaque");
    assert_eq!((opaque.offer.resources.clone(), opaque.offer.slots), (None, 6));
    assert_eq!(read_registration(&write_registration(&opaque), None).expect("our own words"), opaque);
}

#[test]
fn a_complaint_names_the_field_what_stood_there_and_what_was_expected() {
    let with = |more: &str| refused(&format!(r#"{{"id":"r1","incarnation":"i","slots":1,{more}}}"#));
    assert!(
        with(r#""resources":{"memory":"lots"}"#)
            .starts_with(r#"field "resources.memory" ("lots"): expected bytes"#)
    );
    assert!(with(r#""resources":{"cpu":0.0005}"#).contains("up to three decimals"));
    assert!(with(r#""resources":{"gpu":1.5}"#).contains("whole count"));
    assert!(with(r#""resources":{"cpu":1000001}"#).contains("at most 1000000 is allowed"));
    assert!(with(r#""group":"g.1""#).contains("has '.' at position 1"));
    assert!(with(r#""intent":"a.b""#).contains("position 1"));
    assert!(with(r#""protocol":2"#).contains(r#"field "protocol" (2)"#));
    assert!(with(r#""v":2"#).contains(r#"field "v" (2)"#));
    assert!(with(r#""cost":-1"#).contains(r#"field "cost" (-1)"#));
    assert!(with(r#""slots":0"#).contains("from 1 to 10000"));
    assert!(with(r#""kinds":["pod"]"#).contains("expected \"job\" or \"build\""));
    assert!(with(r#""running":[{"id":"t1","token":"1"}]"#).contains("running[0].token"));
    assert!(with(r#""class":"a.b""#).contains("has '.' at position 1"));
    assert_eq!(refused(r#"{"incarnation":"i","slots":1}"#), r#"field "id" is missing"#);
    assert!(refused(r#"{"id":"r1","incarnation":"i"}"#).contains(r#"field "slots" is missing"#));
    assert!(refused("[]").contains("is not a JSON object"));
    assert!(refused("{").contains("is not JSON"));
    let labels: Vec<String> = (0..65).map(|n| format!("\"l{n}\":\"x\"")).collect();
    assert!(with(&format!("\"labels\":{{{}}}", labels.join(","))).contains("has 65 entries; at most 64"));
    let other = read_registration(br#"{"id":"r1","incarnation":"i","slots":1}"#, Some(&id("r2")));
    assert!(other.expect_err("two names").to_string().contains("names runner r2"));
}

#[test]
fn answers_heartbeats_and_farewells_are_read_back_as_they_were_written() {
    let held = Held { id: id("t1"), token: "1.9.0".parse().expect("a token") };
    let registered = Registered {
        table: "0192e4a0-0000-7000-8000-000000000000".parse().expect("a table"),
        turn: 3118,
        lease: Duration::from_secs(15),
        heartbeat: Duration::from_secs(5),
        assignments: vec![held.clone()],
    };
    let text = String::from_utf8(write_registered(&registered)).expect("text");
    assert!(text.contains(r#""lease":"15s""#), "{text}");
    assert_eq!(read_registered(text.as_bytes()).expect("our own words"), registered);

    let news = ArtifactNews { number: 4, added: vec![artifact("sha256-aa")], removed: vec![artifact("b")] };
    let heartbeat = Heartbeat {
        runner: id("r1"),
        incarnation: "i".into(),
        number: 17,
        running: vec![held.clone()],
        artifacts: Some(news),
    };
    let read = read_heartbeat(&write_heartbeat(&heartbeat), Some(&id("r1"))).expect("our own words");
    assert_eq!(read, heartbeat);

    let stop = StopOrder { id: held.id.clone(), token: held.token, reason: "asked back".into() };
    let answer = HeartbeatAnswer {
        number: 17,
        artifacts: Some(4),
        stop: vec![stop.clone()],
        register: true,
        leave: true,
    };
    assert_eq!(read_heartbeat_answer(&write_heartbeat_answer(&answer)).expect("our own words"), answer);

    let leave = Leave { runner: id("r1"), incarnation: "i".into(), handback: vec![id("t1")] };
    assert_eq!(read_leave(&write_leave(&leave), Some(&id("r1"))).expect("our own words"), leave);

    let assignment = AssignmentMessage {
        id: id("t1"),
        kind: Kind::Build,
        queue: id("default"),
        attempt: 2,
        token: held.token,
        deadline: Duration::from_secs(30),
        task: r#"{"id":"t1","spec":{"command":["true"]}}"#.into(),
    };
    let delivery = Delivery { assignments: vec![assignment], stop: vec![stop] };
    assert_eq!(read_delivery(&write_delivery(&delivery)).expect("our own words"), delivery);
    assert!(read_delivery(b"{}").expect("nothing waits").is_empty());
    assert!(read_delivery(br#"{"v":1}"#).expect("this version").is_empty());
    let later = read_delivery(br#"{"v":2,"assignments":[],"stop":[]}"#).expect_err("of a later version");
    assert_eq!(later.field, "v");
}

#[test]
fn reports_come_alone_or_packed_and_leave_out_what_the_address_says() {
    let token: Token = "1.9.0".parse().expect("a token");
    let report = |what| Report {
        runner: id("r1"),
        incarnation: "i".into(),
        kind: Kind::Build,
        id: id("t1"),
        token,
        what,
    };
    let end = End {
        outcome: AttemptOutcome::StartFailed,
        exit_code: Some(-1),
        message: Some("no".into()),
        artifacts: vec![artifact("c")],
    };
    let reports = vec![report(Reported::Start), report(Reported::End(end))];
    let said = Said { runner: Some(&id("r1")), ..Said::default() };
    assert_eq!(read_reports(&write_reports(&reports), said).expect("our own words"), reports);
    assert_eq!(read_reports(&write_report(&reports[1]), Said::default()).expect("alone"), reports[1..]);

    let short = br#"{"id":"t1","token":"1.9.0","incarnation":"i"}"#;
    let said = Said { runner: Some(&id("r1")), kind: Some(Kind::Build), report: Some("start") };
    assert_eq!(read_reports(short, said).expect("the subject says the rest"), reports[..1]);
    let unsaid = read_reports(short, Said { kind: None, ..said }).expect("nothing says the kind");
    assert_eq!(unsaid[0].kind, Kind::Job);
    let other = Said { kind: Some(Kind::Job), ..said };
    let why = read_reports(&write_reports(&reports[..1]), other).expect_err("another kind").to_string();
    assert!(why.contains("the subject says job"), "{why}");
    let odd =
        br#"{"reports":[{"report":"end","id":"t1","token":"1.9.0","incarnation":"i","outcome":"won"}]}"#;
    let why = read_reports(odd, said_by(&id("r1"))).expect_err("no such outcome").to_string();
    assert!(why.starts_with(r#"field "reports[0].outcome" ("won"): expected one of succeeded"#), "{why}");
}

fn said_by(runner: &RunnerId) -> Said<'_> {
    Said { runner: Some(runner), ..Said::default() }
}
