//! Servers and runners are killed at random moments while real work is in flight.
//!
//! Law: what is judged is only what producers were told and what the work itself wrote: a mark at its start and
//! its end, under a lock of its task that lives exactly as long as its process. `LONGSHORE_SEED` repeats a run's
//! choices.

mod binary;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use binary::{Process, Server, longshore, runner, text, wait_up_to};
use serde_json::{Value, json};

const TASKS: usize = 160;
const RUNNERS: usize = 3;
const KILLING: Duration = Duration::from_secs(20);
/// Packs come all through the killing, not all before it.
const BETWEEN_PACKS: Duration = Duration::from_millis(500);
/// How long everything may take to end once the killing is over.
const SETTLE: Duration = Duration::from_secs(60);

const CONFIG: &str = "
[lease]
ttl = \"3s\"
heartbeat = \"1s\"
margin = \"1s\"
assignment_deadline = \"2s\"
[retry]
backoff = \"100ms\"
";

/// Draws numbers; the same seed draws the same ones.
struct Lots(u64);

impl Lots {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// What the work wrote: which attempt, on which runner's process, did what.
#[derive(Debug, Clone, PartialEq)]
struct Mark {
    word: String,
    id: String,
    token: String,
    runner: u32,
}

fn marks(dir: &Path) -> Vec<Mark> {
    let text = std::fs::read_to_string(dir.join("marks")).unwrap_or_default();
    let read = |line: &str| {
        let mut parts = line.split(' ').map(str::to_owned);
        let mut next = || parts.next().expect("a mark has four words");
        Mark { word: next(), id: next(), token: next(), runner: next().parse().expect("a process id") }
    };
    text.lines().map(read).collect()
}

/// A task that marks what it does. Its lock is held by its first process alone, which ends with its runner.
fn task(dir: &Path, number: usize, lots: &mut Lots) -> Value {
    let script = format!(
        "exec 9>>'{0}'/lock-$LONGSHORE_TASK; \
         say() {{ echo \"$1 $LONGSHORE_TASK $LONGSHORE_TOKEN $PPID\" >> '{0}'/marks; }}; \
         flock -n 9 || say clash; say start; sleep 0.{1:03} 9>&-; say end",
        dir.display(),
        50 + lots.below(600)
    );
    json!({
        "id": format!("t{number}"), "resources": {"cpu": 1, "memory": "16MiB"}, "max_attempts": 100,
        "spec": {"command": ["sh", "-c", script]},
    })
}

/// Submits all tasks in small packs, each until it is acknowledged.
fn produce(dir: &Path, url: &str, tasks: &[Value], stop: &AtomicBool) -> BTreeSet<String> {
    let mut acknowledged = BTreeSet::new();
    for (number, pack) in tasks.chunks(8).enumerate() {
        let file = dir.join(format!("pack-{number}.json"));
        std::fs::write(&file, json!({"tasks": pack}).to_string()).expect("the directory can be written");
        while !stop.load(Ordering::Relaxed) {
            let sent =
                longshore().args(["submit", "--json", "--url", url]).arg(&file).output().expect("it runs");
            if sent.status.success() {
                let answer: Value = serde_json::from_slice(&sent.stdout).expect("it answers in JSON");
                let ids = answer["ids"].as_array().expect("a list").iter().filter_map(Value::as_str);
                acknowledged.extend(ids.map(str::to_owned));
                break;
            }
            assert_eq!(sent.status.code(), Some(3), "only an absent server refuses: {}", text(&sent.stderr));
        }
        std::thread::sleep(BETWEEN_PACKS);
    }
    acknowledged
}

struct World {
    dir: PathBuf,
    config: PathBuf,
    address: String,
    server: Option<Server>,
    runners: Vec<Option<Process>>,
    /// Ids of runners' processes that were killed.
    killed: BTreeSet<u32>,
}

impl World {
    fn new(dir: &Path) -> Self {
        let config = dir.join("longshore.toml");
        std::fs::write(&config, CONFIG).expect("the directory can be written");
        let mut world = Self {
            dir: dir.to_owned(),
            config,
            address: "127.0.0.1:0".to_owned(),
            server: None,
            runners: (0..RUNNERS).map(|_| None).collect(),
            killed: BTreeSet::new(),
        };
        world.start_server();
        world.address = world.server.as_ref().expect("it was started").address();
        (0..RUNNERS).for_each(|number| world.start_runner(number));
        world
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn start_server(&mut self) {
        let more = [OsStr::new("--config"), self.config.as_os_str()];
        self.server = Some(Server::start_at(&self.dir.join("data"), &self.address, &more));
    }

    fn start_runner(&mut self, number: usize) {
        let id = format!("r{number}");
        self.runners[number] = Some(runner(&self.url(), &id, &self.dir, &["--cpu", "3"]));
    }

    /// Kills one process and starts it again, at once or a little later.
    fn strike(&mut self, lots: &mut Lots) {
        let victim = usize::try_from(lots.below(RUNNERS as u64 + 2)).expect("it is small");
        let absent = Duration::from_millis(lots.below(2) * lots.below(800));
        if victim < RUNNERS {
            let process = self.runners[victim].take().expect("it was started");
            self.killed.insert(process.id());
            process.kill();
            std::thread::sleep(absent);
            self.start_runner(victim);
        } else {
            self.server.take().expect("it was started").process.kill();
            std::thread::sleep(absent);
            self.start_server();
        }
    }

    /// A runner that was lost too often in a row is held: an operator looks at it and resumes it.
    fn resume_all(&self) {
        for number in 0..RUNNERS {
            let server = self.server.as_ref().expect("it was started");
            server.run(["resume", &format!("r{number}")]);
        }
    }

    fn stop(mut self) {
        for process in self.runners.drain(..).flatten() {
            assert_eq!(process.terminate().code(), Some(0), "a runner stops in order");
        }
        let server = self.server.take().expect("it was started");
        assert_eq!(server.process.terminate().code(), Some(0), "the server stops in order");
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "how long a test goes on killing")]
fn killed_servers_and_runners_lose_nothing_and_own_nothing_twice() {
    let drawn = RandomState::new().build_hasher().finish();
    let seed = std::env::var("LONGSHORE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(drawn);
    println!("LONGSHORE_SEED={seed}");
    let mut lots = Lots(seed);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let dir = dir.path();
    let tasks: Vec<Value> = (0..TASKS).map(|number| task(dir, number, &mut lots)).collect();
    let mut world = World::new(dir);
    let (url, stop) = (world.url(), AtomicBool::new(false));
    let acknowledged = std::thread::scope(|scope| {
        let _ends = Ends(&stop);
        let producing = scope.spawn(|| produce(dir, &url, &tasks, &stop));
        let began = Instant::now();
        let mut strikes = 0;
        while began.elapsed() < KILLING {
            std::thread::sleep(Duration::from_millis(200 + lots.below(1_200)));
            world.strike(&mut lots);
            world.resume_all();
            strikes += 1;
        }
        let acknowledged = producing.join().expect("the producer does not fail");
        println!("{strikes} processes killed, {} tasks acknowledged", acknowledged.len());
        acknowledged
    });
    assert_eq!(acknowledged.len(), TASKS);
    let blamed = settle(&world, &acknowledged);
    judge(&marks(dir), &acknowledged, &blamed, &world.killed);
    world.stop();
    let check =
        longshore().args(["table", "check", "--data"]).arg(dir.join("data")).output().expect("it runs");
    assert!(check.status.success(), "{}{}", text(&check.stdout), text(&check.stderr));
}

/// Sets a flag when it goes, whether by a panic or not, so that the producer ends.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits until every task has marked its end, or is known to be blamed for two crashes; those are returned.
fn settle(world: &World, acknowledged: &BTreeSet<String>) -> BTreeSet<String> {
    let server = world.server.as_ref().expect("it was started");
    wait_up_to(SETTLE, "every acknowledged task ends", || {
        world.resume_all();
        let told = marks(&world.dir);
        let ended: BTreeSet<&str> =
            told.iter().filter(|mark| mark.word == "end").map(|mark| mark.id.as_str()).collect();
        let open = acknowledged.iter().filter(|id| !ended.contains(id.as_str()));
        let blamed = |id: &&String| {
            let why = text(&server.run(["why", id.as_str()]).stdout);
            why.contains("exhausted") && why.contains("two runners crashed while it ran")
        };
        let (blamed, open): (BTreeSet<&String>, BTreeSet<&String>) = open.partition(blamed);
        let live: usize = ["pending", "assigned", "running"]
            .iter()
            .map(|state| server.json(["ps", "--state", state])["tasks"].as_array().map_or(0, Vec::len))
            .sum();
        (open.is_empty() && live == 0).then(|| blamed.into_iter().cloned().collect())
    })
}

fn judge(told: &[Mark], acknowledged: &BTreeSet<String>, blamed: &BTreeSet<String>, killed: &BTreeSet<u32>) {
    let clashes: Vec<&Mark> = told.iter().filter(|mark| mark.word == "clash").collect();
    assert!(clashes.is_empty(), "two owners at once: {clashes:?}");
    assert!(blamed.len() <= TASKS / 20, "most tasks are blameless: {blamed:?}");
    let mut stories: BTreeMap<&str, Vec<&Mark>> = BTreeMap::new();
    told.iter().for_each(|mark| stories.entry(&mark.id).or_default().push(mark));
    let again = stories.values().filter(|story| story.iter().filter(|mark| mark.word == "start").count() > 1);
    println!("{} tasks were started again, {} were blamed", again.count(), blamed.len());
    for id in acknowledged.difference(blamed) {
        let story = stories.get(id.as_str()).unwrap_or_else(|| panic!("{id} never ran"));
        let tokens: BTreeSet<&str> = story.iter().map(|mark| mark.token.as_str()).collect();
        for token in tokens {
            for word in ["start", "end"] {
                let said = story.iter().filter(|mark| mark.token == token && mark.word == word).count();
                assert!(said <= 1, "{id} has {said} marks {word} under {token}");
            }
        }
        // A success is final: another attempt may follow only if the runner died before it could tell of it.
        let last_start = story.iter().rposition(|mark| mark.word == "start").expect("it started");
        for early in story[..last_start].iter().filter(|mark| mark.word == "end") {
            assert!(killed.contains(&early.runner), "{id} ran again after it had succeeded: {story:?}");
        }
    }
    assert!(stories.keys().all(|id| acknowledged.contains(*id)), "something ran that nobody asked for");
}

/// What the judge says of one task's marks, by runner processes of which 7 was killed.
fn judged(lines: &[(&str, &str, u32)]) -> std::thread::Result<()> {
    let mark = |(word, token, runner): &(&str, &str, u32)| Mark {
        word: (*word).to_owned(),
        id: "t1".to_owned(),
        token: (*token).to_owned(),
        runner: *runner,
    };
    let told: Vec<Mark> = lines.iter().map(mark).collect();
    let (acknowledged, killed) = (BTreeSet::from(["t1".to_owned()]), BTreeSet::from([7]));
    std::panic::catch_unwind(|| judge(&told, &acknowledged, &BTreeSet::new(), &killed))
}

#[test]
fn the_judge_is_not_blind() {
    let once = [("start", "1", 5), ("end", "1", 5)];
    let died_before_telling = [("start", "1", 7), ("end", "1", 7), ("start", "2", 5), ("end", "2", 5)];
    assert!(judged(&once).is_ok() && judged(&died_before_telling).is_ok());
    let never_ran: [(&str, &str, u32); 0] = [];
    let twice_at_once = [("start", "1", 7), ("clash", "2", 5), ("start", "2", 5), ("end", "2", 5)];
    let again_after_success = [("start", "1", 5), ("end", "1", 5), ("start", "2", 6), ("end", "2", 6)];
    let one_token_twice = [("start", "1", 5), ("start", "1", 5), ("end", "1", 5)];
    assert!(judged(&never_ran).is_err());
    assert!(judged(&twice_at_once).is_err());
    assert!(judged(&again_after_success).is_err());
    assert!(judged(&one_token_twice).is_err());
}
