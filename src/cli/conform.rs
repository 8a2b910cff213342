//! `conform`: drives a runner or puller of somebody's own through what one must survive, and says what it saw.
//!
//! Law: 0 every case passed, 1 one did not, 2 what was asked for makes no sense. A case that was left out by
//! `--without` is shown as such. Nothing it starts outlives it, whatever ends it.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args};
use serde_json::{Value, json};

use super::failure::Failure;
use super::local::Scratch;
use super::nats::NatsArgs;
use super::paper::{Ink, Paper, took};
use super::{Form, signals};
use crate::conform::{self, Case, Found, Role, Settings, Tried};
use crate::model::time::{format_span, parse_span};
use crate::wire::subject::DEFAULT_POOL;

/// The shortest lease with which what is found is sound.
const SHORTEST_LEASE: Duration = Duration::from_secs(2);

/// Try whether a runner or puller keeps the rules: the kit is the dispatcher it talks to
///
/// The command, one program with its arguments, is started for each case, and finds LONGSHORE_URL (or LONGSHORE_NATS and LONGSHORE_POOL),
/// LONGSHORE_RUNNER (its id), LONGSHORE_DATA (a directory) and LONGSHORE_LEASE; pullers also LONGSHORE_TOPIC.
/// {url}, {nats}, {pool}, {runner} or {id}, {data}, {lease} and {topic} in it stand for the same.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("program").required(true).args(["runner", "puller", "list"]))]
pub(super) struct Conform {
    /// The command that starts the runner
    #[arg(long, value_name = "COMMAND")]
    runner: Option<String>,
    /// The command that starts the puller
    #[arg(long, value_name = "COMMAND", conflicts_with = "runner")]
    puller: Option<String>,
    /// Where the kit listens, for one case at a time [default: a free port for each]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    #[command(flatten)]
    nats: NatsArgs,
    /// Try this case only
    #[arg(long = "case", value_name = "CASE")]
    cases: Vec<String>,
    /// Leave this case out: its rule does not apply
    #[arg(long, value_name = "CASE")]
    without: Vec<String>,
    /// Show the cases and their rules
    #[arg(long)]
    list: bool,
    /// How long a lease runs
    #[arg(long, default_value = "4s", value_parser = parse_span)]
    lease: Duration,
    /// How long the program takes at most to end work it was asked to stop
    #[arg(long, default_value = "10s", value_parser = parse_span)]
    grace: Duration,
    /// The program will run in something that ends with it, like a container: a kill takes its whole tree
    #[arg(long)]
    contained: bool,
    /// Cases at once
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=32))]
    jobs: u8,
    /// Keep what the cases write below this directory [default: a temporary one that goes]
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    #[command(flatten)]
    form: Form,
}

impl Conform {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let paper = Paper::new(self.form);
        if self.list {
            list(paper, self.roles());
            return Ok(());
        }
        let role = self.roles()[0];
        let (chosen, left_out) = self.chosen(role)?;
        let scratch = self.keep.is_none().then(|| Scratch::below(None)).transpose()?;
        let directory = scratch.as_ref().map(Scratch::path).or(self.keep.as_deref());
        let settings = self.settings(role, directory.expect("one of both is there").to_owned()).await?;
        let stop = signals::stop_asked()?;
        let bar = paper.progress(chosen.len() as u64, "conform");
        let mut all = conform::run(settings, chosen, &stop, |tried| {
            bar.inc(1);
            bar.set_message(tried.case.name);
        })
        .await;
        bar.finish_and_clear();
        if stop.is_cancelled() {
            return Err(Failure::Broken("the cases were interrupted".to_owned()));
        }
        let out = |case| Tried { case, took: Duration::ZERO, found: Found::LeftOut };
        all.extend(left_out.into_iter().map(out));
        report(paper, &all)
    }

    fn roles(&self) -> &'static [Role] {
        match (&self.runner, &self.puller) {
            (Some(_), _) => &[Role::Runner],
            (_, Some(_)) => &[Role::Puller],
            (None, None) => &[Role::Runner, Role::Puller],
        }
    }

    /// The cases to try, and those that are left out.
    fn chosen(&self, role: Role) -> Result<(Vec<&'static Case>, Vec<&'static Case>), Failure> {
        let all = conform::cases(role);
        for (option, names) in [("--case", &self.cases), ("--without", &self.without)] {
            if let Some(name) = names.iter().find(|name| all.iter().all(|case| case.name != **name)) {
                let names = all.iter().map(|case| case.name).collect::<Vec<_>>().join(", ");
                return Err(Failure::Usage(format!("{option} ({name}) is no case; there are {names}")));
            }
        }
        let asked = |case: &&Case| self.cases.is_empty() || self.cases.iter().any(|name| name == case.name);
        let out = |case: &&Case| self.without.iter().any(|name| name == case.name);
        let (left_out, chosen): (Vec<_>, Vec<_>) = all.iter().filter(asked).partition(out);
        if chosen.is_empty() {
            return Err(Failure::Usage("--without leaves no case to try".to_owned()));
        }
        Ok((chosen, left_out))
    }

    async fn settings(&self, role: Role, scratch: PathBuf) -> Result<Settings, Failure> {
        if self.lease < SHORTEST_LEASE {
            let (lease, least) = (format_span(self.lease), format_span(SHORTEST_LEASE));
            return Err(Failure::Usage(format!("--lease ({lease}) must be at least {least}")));
        }
        let nats = match self.nats.named("conform".to_owned())? {
            None => None,
            Some(_) if role == Role::Puller => {
                return Err(Failure::Usage("--nats: pullers speak HTTP; leave it out".to_owned()));
            }
            Some(_) if self.url.is_some() => {
                return Err(Failure::Usage("--url and --nats: name the one the runner speaks".to_owned()));
            }
            Some(named) if named.names.prefix() != "longshore" => {
                let why =
                    format!("--pool: the kit makes pools of its own; leave it out or say {DEFAULT_POOL}");
                return Err(Failure::Usage(why));
            }
            Some(named) => Some((named.url().to_owned(), named.connect().await?)),
        };
        let command = self.runner.as_ref().or(self.puller.as_ref()).expect("clap asks for one of both");
        Ok(Settings {
            command: command.clone(),
            listen: self.url.as_deref().map(address).transpose()?,
            nats,
            lease: self.lease,
            grace: self.grace,
            contained: self.contained,
            scratch,
            jobs: self.jobs.into(),
        })
    }
}

/// Where to listen, as an `http` URL says it.
fn address(url: &str) -> Result<SocketAddr, Failure> {
    let wrong = |why: String| {
        Failure::Usage(format!("--url ({url:?}) {why}; give an address like http://127.0.0.1:9000"))
    };
    let parsed = reqwest::Url::parse(url).map_err(|why| wrong(format!("is no URL: {why}")))?;
    if parsed.scheme() != "http" {
        return Err(wrong(format!("has the scheme {:?}", parsed.scheme())));
    }
    let host = parsed.host_str().ok_or_else(|| wrong("names no host".to_owned()))?;
    let port = parsed.port_or_known_default().expect("http has a default port");
    let found = (host, port).to_socket_addrs().map_err(|why| wrong(format!("cannot be found: {why}")))?;
    found.into_iter().next().ok_or_else(|| wrong("is no address of this machine".to_owned()))
}

fn list(paper: Paper, roles: &[Role]) {
    let cases = roles.iter().flat_map(|role| conform::cases(*role));
    if paper.is_json() {
        let cases = cases.map(|case| {
            json!({"role": word(case.role), "case": case.name, "rule": case.rule, "stands_in": case.stands_in})
        });
        paper.json(&json!({"cases": cases.collect::<Vec<_>>()}));
        return;
    }
    let rows = cases.map(|case| {
        vec![
            (word(case.role).to_owned(), Ink::Plain),
            (case.name.to_owned(), Ink::Strong),
            (case.rule.to_owned(), Ink::Plain),
            (case.stands_in.to_owned(), Ink::Faint),
        ]
    });
    paper.table(&["FOR A", "CASE", "THE RULE", "STANDS IN"], rows.collect());
}

fn word(role: Role) -> &'static str {
    match role {
        Role::Runner => "runner",
        Role::Puller => "puller",
    }
}

fn report(paper: Paper, all: &[Tried]) -> Result<(), Failure> {
    let failed = all.iter().filter(|tried| matches!(tried.found, Found::Failed(_))).count();
    if paper.is_json() {
        let cases: Vec<Value> = all.iter().map(as_json).collect();
        paper.json(&json!({"passed": failed == 0, "cases": cases}));
    } else {
        paper.table(&["CASE", "", "TOOK", "THE RULE", "SEEN"], all.iter().map(row).collect());
        paper.line("");
        let (count, out) = (all.len(), all.iter().filter(|one| one.found == Found::LeftOut).count());
        let without = if out == 0 { String::new() } else { format!(", {out} left out") };
        paper.line(match failed {
            0 => paper.ink(Ink::Good, format!("{} of {count} cases passed{without}.", count - out)),
            some => paper.ink(Ink::Bad, format!("{some} of {count} cases failed{without}.")),
        });
    }
    if failed == 0 { Ok(()) } else { Err(Failure::Work(1)) }
}

fn row(tried: &Tried) -> Vec<(String, Ink)> {
    let ((said, ink), seen) = match &tried.found {
        Found::Passed { seen } => (("passed", Ink::Good), seen.clone()),
        Found::Failed(broken) => (("failed", Ink::Bad), broken.to_string()),
        Found::LeftOut => (("left out", Ink::Faint), "not applicable, by --without".to_owned()),
    };
    vec![
        (tried.case.name.to_owned(), Ink::Strong),
        (said.to_owned(), ink),
        (took(milliseconds(tried)), Ink::Plain),
        (tried.case.rule.to_owned(), Ink::Plain),
        (seen, if ink == Ink::Bad { Ink::Plain } else { Ink::Faint }),
    ]
}

fn as_json(tried: &Tried) -> Value {
    let (said, expected, seen) = match &tried.found {
        Found::Passed { seen } => ("passed", None, Some(seen)),
        Found::Failed(broken) => ("failed", Some(&broken.expected), Some(&broken.seen)),
        Found::LeftOut => ("not_applicable", None, None),
    };
    json!({
        "case": tried.case.name, "result": said, "rule": tried.case.rule, "stands_in": tried.case.stands_in,
        "expected": expected, "seen": seen, "took_ms": milliseconds(tried),
    })
}

fn milliseconds(tried: &Tried) -> u64 {
    u64::try_from(tried.took.as_millis()).unwrap_or(u64::MAX)
}
