//! A scene: one case's dispatcher, door, directory and program, and what its story does with them.
//!
//! Law: every wait names what is expected and how long at most; when it is over it says what was seen instead.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::catalogue::{Case, Role};
use super::counter::Counter;
use super::dispatcher::{Dispatcher, Heard, Weather, Word, told};
use super::http;
use super::marks::{Marks, Work};
use super::nats;
use super::program::{MARKS, Program, Start, processes_of, sweep};
use super::{Broken, Settings, ensure};
use crate::model::{AssignmentMessage, End, Held, Kind, Offer, QueueId, Registration, Token};

/// How often a fact is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// How long what needs no patience may take, on a machine with much else to do.
pub const SOON: Duration = Duration::from_secs(20);
/// How long what must not happen is watched for.
pub const A_WHILE: Duration = Duration::from_millis(1_500);

/// What a case is played on.
#[derive(Debug)]
pub struct Scene {
    pub settings: Arc<Settings>,
    pub dispatcher: Dispatcher,
    /// Who pullers ask.
    pub counter: Counter,
    door: Door,
    start: Start,
    program: Option<Program>,
}

#[derive(Debug)]
enum Door {
    Http(http::Door),
    Nats(Box<nats::Door>),
}

/// A task that was given out once, under one token.
#[derive(Debug, Clone)]
pub struct Task {
    pub held: Held,
    pub marks: Marks,
    pub message: AssignmentMessage,
}

impl Scene {
    /// Sets it for a case: the door is still closed, nothing runs.
    pub async fn set(settings: Arc<Settings>, case: &Case) -> io::Result<Self> {
        let mark = uuid::Uuid::now_v7().simple().to_string();
        let mark = &mark[mark.len() - 8..];
        let directory = settings.scratch.join(format!("{}-{mark}", case.name));
        fs::create_dir_all(directory.join("data"))?;
        let directory = directory.canonicalize()?;
        let id = format!("conform-{}-{mark}", case.name);
        let (dispatcher, counter) = (Dispatcher::new(settings.lease), Counter::new(settings.lease));
        let mut variables = vec![
            ("LONGSHORE_RUNNER", id.clone()),
            ("LONGSHORE_ID", id.clone()),
            ("LONGSHORE_DATA", directory.join("data").display().to_string()),
            ("LONGSHORE_LEASE", crate::model::time::format_span(settings.lease)),
        ];
        let door = match (&settings.nats, case.role) {
            (Some((url, connection)), Role::Runner) => {
                let pool = format!("conform-{mark}");
                variables.extend([("LONGSHORE_NATS", url.clone()), ("LONGSHORE_POOL", pool.clone())]);
                Door::Nats(Box::new(nats::Door::new(connection.clone(), &pool, &id, dispatcher.clone())))
            }
            _ => {
                let door = http::Door::new(settings.listen, dispatcher.clone(), counter.clone()).await?;
                variables.push(("LONGSHORE_URL", door.url()));
                if case.role == Role::Puller {
                    variables.push(("LONGSHORE_TOPIC", id));
                }
                Door::Http(door)
            }
        };
        let start = Start { command: settings.command.clone(), variables, directory };
        Ok(Self { settings, dispatcher, counter, door, start, program: None })
    }

    /// Opens the door.
    pub async fn open(&mut self) -> Result<(), Broken> {
        let opened = match &mut self.door {
            Door::Http(door) => door.open().await.map_err(|why| why.to_string()),
            Door::Nats(door) => door.open().await,
        };
        opened.map_err(|why| Broken::new("the kit to listen", why))
    }

    /// Starts the program.
    pub fn start(&mut self) -> Result<(), Broken> {
        let started = self.start.start();
        self.program = Some(started.map_err(|why| Broken::new("the command to start", why))?);
        Ok(())
    }

    /// Opens the door, starts the program, and waits until it has registered.
    pub async fn begin(&mut self) -> Result<Registration, Broken> {
        self.open().await?;
        self.start()?;
        self.registration(1).await
    }

    /// Takes everything away: nothing that ran here runs any more.
    pub async fn clear(mut self) {
        drop(self.program.take());
        sweep(&self.start.directory).await;
        if let Door::Nats(door) = &self.door {
            door.remove().await;
        }
    }

    /// The program, which was started.
    pub fn program(&mut self) -> &mut Program {
        self.program.as_mut().expect("the story has started it")
    }

    /// Kills the program, with its whole tree where it is said to live in something that goes with it.
    pub async fn kill(&mut self) {
        let tree = self.settings.contained;
        self.program().kill(tree).await;
    }

    /// Processes that are there on account of this case.
    pub fn processes(&self) -> usize {
        processes_of(&self.start.directory).len()
    }

    // Work.

    /// New work under a new token, not given out yet.
    pub fn task(&self, name: &str, work: Work) -> Task {
        self.task_under(name, 1, self.dispatcher.new_token(), work)
    }

    /// The same as an attempt of its own under a token of its own.
    pub fn task_under(&self, name: &str, attempt: u32, token: Token, work: Work) -> Task {
        let file = self.file(&format!("{name}-{token}"));
        let id = name.parse().expect("names of the kit are legal");
        let offer = self.offer();
        let kinds = offer.as_ref().map(|offer| &offer.kinds);
        let kind = if kinds.is_none_or(|kinds| kinds.contains(&Kind::Job)) { Kind::Job } else { Kind::Build };
        let queue: Option<QueueId> = offer.as_ref().and_then(|offer| offer.queues.first().cloned());
        let queue = queue.unwrap_or_else(|| "default".parse().expect("a legal name"));
        let tolerations: Vec<_> = offer.iter().flat_map(|offer| offer.taints.iter()).collect();
        let task = json!({
            "id": name, "kind": kind, "queue": queue, "tolerations": tolerations, "spec": work.spec(&file),
            "resources": {"cpu": "1m", "memory": "1MiB"},
        });
        let message = AssignmentMessage {
            id,
            kind,
            queue,
            attempt,
            token,
            deadline: Duration::from_secs(30),
            task: task.to_string().into(),
        };
        Task { held: Held { id: message.id.clone(), token }, marks: Marks(file), message }
    }

    /// Where work called `name` marks.
    pub fn file(&self, name: &str) -> PathBuf {
        self.start.directory.join(format!("{MARKS}{name}"))
    }

    /// Assigns new work.
    pub fn assign(&self, name: &str, work: Work) -> Task {
        let task = self.task(name, work);
        self.dispatcher.assign(task.message.clone());
        task
    }

    /// Assigns new work and waits until it runs and its start was reported.
    pub async fn runs(&mut self, name: &str, work: Work) -> Result<Task, Broken> {
        let task = self.assign(name, work);
        self.until(format!("{name} to start"), SOON, |_| task.marks.started().then_some(())).await?;
        let token = task.held.token;
        self.hears(format!("the start of {name}"), SOON, |heard| {
            heard.taken.then(|| heard.report().filter(|report| report.token == token)).flatten().map(|_| ())
        })
        .await?;
        Ok(task)
    }

    fn offer(&self) -> Option<Arc<Offer>> {
        self.dispatcher.heard(|heard| {
            let last = heard.iter().rev().find_map(Heard::registration);
            last.map(|registration| registration.offer.clone())
        })
    }

    // Waiting.

    /// Waits for a fact, at most until the program ends.
    pub async fn until<T>(
        &mut self,
        expected: impl Into<String>,
        within: Duration,
        mut look: impl FnMut(&Dispatcher) -> Option<T>,
    ) -> Result<T, Broken> {
        let (expected, began) = (expected.into(), Instant::now());
        loop {
            // Its last words are heard before its end is seen.
            let gone = self.program.as_mut().is_some_and(|program| program.ended().is_some());
            if let Some(found) = look(&self.dispatcher) {
                return Ok(found);
            }
            if gone || began.elapsed() > within {
                let seen = self.dispatcher.heard(told);
                let seen = self
                    .counter
                    .heard(|said| said.is_empty().then_some(seen))
                    .unwrap_or_else(|| self.counter.told());
                return Err(Broken::new(
                    format!("{expected} within {within:?}"),
                    format!("{seen}{}", self.end_said()),
                ));
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits for a word.
    pub async fn hears<T>(
        &mut self,
        expected: impl Into<String>,
        within: Duration,
        mut look: impl FnMut(&Heard) -> Option<T>,
    ) -> Result<T, Broken> {
        self.until(expected, within, |dispatcher| dispatcher.heard(|heard| heard.iter().find_map(&mut look)))
            .await
    }

    /// Waits for the registration that was answered as the `number`th, counted from 1.
    pub async fn registration(&mut self, number: usize) -> Result<Registration, Broken> {
        let what = if number == 1 { "a registration".to_owned() } else { format!("registration {number}") };
        self.until(what, SOON, |dispatcher| {
            dispatcher.heard(|heard| {
                let mut all = heard.iter().filter(|heard| heard.taken).filter_map(Heard::registration);
                all.nth(number - 1).cloned()
            })
        })
        .await
    }

    /// Waits for the end of `task` to be taken.
    pub async fn end(&mut self, task: &Task, within: Duration) -> Result<End, Broken> {
        let token = task.held.token;
        self.hears(format!("the end of {}", task.held.id), within, |heard| {
            heard.taken.then(|| heard.end_of(token)).flatten().cloned()
        })
        .await
    }

    /// Waits until the program has ended.
    pub async fn exit(&mut self, within: Duration) -> Result<std::process::ExitStatus, Broken> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.program().ended() {
                return Ok(status);
            }
            if began.elapsed() > within {
                let seen = format!("it still runs; it last wrote: {}", self.program().last_line());
                return Err(Broken::new(format!("the program to exit within {within:?}"), seen));
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Watches for a while that `task` is not started again than `starts` times.
    pub async fn is_not_started(&mut self, task: &Task, starts: usize, why: &str) -> Result<(), Broken> {
        let until = Instant::now() + A_WHILE;
        while Instant::now() < until {
            let seen = task.marks.seen().starts.len();
            let times = if starts == 0 { "never".to_owned() } else { format!("{starts} time") };
            ensure(
                seen <= starts,
                format!("{} to be started {times}: {why}", task.held.id),
                format!("{seen} starts"),
            )?;
            sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// Watches that `marks` have no mark after `over`, a time of day that may be yet to come.
    pub async fn is_dead_by(&self, marks: &Marks, over: Duration, what: &str) -> Result<Duration, Broken> {
        let watch = (over + A_WHILE).saturating_sub(super::marks::time_of_day());
        sleep(watch).await;
        let last = marks.seen().last;
        let late = last.saturating_sub(over);
        ensure(
            late.is_zero(),
            format!("the work to have ended {what}"),
            format!("its marks go on {late:?} after that"),
        )?;
        Ok(over - last)
    }

    /// When the lease that was last renewed is over, by the time of day, as late as anybody may count it.
    pub fn lease_over(&self) -> Duration {
        self.dispatcher.heard(|heard| {
            let renewals =
                |heard: &&Heard| heard.taken && matches!(heard.word, Word::Registered(_) | Word::Beat(_));
            heard.iter().rev().find(renewals).map_or(Duration::ZERO, |heard| heard.at)
        }) + self.settings.lease
    }

    /// Lets the dispatcher be as it is in `weather`.
    pub fn weather(&self, weather: Weather) {
        self.dispatcher.turns(weather);
    }

    /// Takes no reports any more, or takes them again.
    pub async fn hears_reports(&mut self, hears: bool) -> Result<(), Broken> {
        self.dispatcher.hears_reports(hears);
        match &self.door {
            Door::Nats(door) => door.follow_reports().await.map_err(|why| Broken::new("the stream", why)),
            Door::Http(_) => Ok(()),
        }
    }

    /// Fails if anything was said that cannot be read.
    pub fn all_was_readable(&self) -> Result<(), Broken> {
        let unreadable = self.dispatcher.heard(|heard| {
            heard.iter().find_map(|heard| match &heard.word {
                Word::Unreadable(why) => Some(why.clone()),
                _ => None,
            })
        });
        match unreadable.or_else(|| self.counter.unreadable()) {
            Some(why) => Err(Broken::new("words the protocol has", why)),
            None => Ok(()),
        }
    }

    fn end_said(&mut self) -> String {
        let Some(program) = &mut self.program else { return String::new() };
        match program.ended() {
            Some(status) => format!("; the program ended ({status}), writing last: {}", program.last_line()),
            None => String::new(),
        }
    }
}
