//! The command line: reads what is asked for, puts the parts together, shows what came of it.
//!
//! Law: a command that talks to a server speaks the public HTTP API and nothing else; only `serve`, `demo` and
//! `bench` compose a dispatcher, only `conform` stands in for one, and only `table` and `doctor` look at it directly. Every command has `--json` for machines and
//! ends with 0 done, 1 the work failed, 2 wrong usage or configuration, 3 the server cannot be reached.
//!
//! One file a command. `client` speaks HTTP, `paper` writes to the terminal, `failure` knows the exit codes.

pub mod bench;
mod cancel;
mod client;
mod completions;
mod conform;
mod demo;
mod doctor;
pub mod embedded;
mod events;
mod failure;
mod guard;
mod intents;
#[cfg(feature = "kubernetes")]
mod kubernetes;
mod local;
mod logs;
mod machine;
mod nats;
mod operate;
mod paper;
mod process;
mod provision;
mod ps;
mod ready;
mod runner;
mod runners;
mod serve;
mod shared;
mod signals;
mod submit;
mod table;
mod why;

use std::future::Future;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use client::Client;
use failure::Failure;
use paper::Paper;

use crate::model::Id;
use crate::telemetry::logs::{Format, Level, Logging};

/// What is shown at the end of the help.
const AFTER_HELP: &str = "\
Start here:
  longshore demo                      a CI day on three small runners, in one process
  longshore serve                     a dispatcher with a durable table on this machine
  longshore runner                    offers this machine's cpus and memory to it
  longshore submit --wait -- make     runs a command on whichever runner fits

Exit codes: 0 done, 1 the work failed, 2 wrong usage or configuration, 3 the server cannot be reached.";

/// Longshore dispatches container jobs and builds onto runners.
#[derive(Debug, Parser)]
#[command(name = "longshore", version, after_help = AFTER_HELP, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Runner(Box<runner::Runner>),
    Submit(submit::Submit),
    Ps(ps::Ps),
    Ready(ready::Ready),
    Runners(runners::Runners),
    Why(why::Why),
    Intents(intents::Intents),
    Provision(provision::Provision),
    Logs(logs::Logs),
    Cancel(cancel::Cancel),
    Hold(operate::Hold),
    Drain(operate::Drain),
    Resume(operate::Resume),
    Pause(operate::Pause),
    Unpause(operate::Unpause),
    Unfreeze(operate::Unfreeze),
    Table(table::Table),
    Doctor(doctor::Doctor),
    Conform(conform::Conform),
    Completions(completions::Completions),
    Demo(demo::Demo),
    Bench(bench::Bench),
    #[command(hide = true)]
    Guard(guard::Guard),
}

/// How results are shown.
#[derive(Debug, Clone, Copy, Args)]
struct Form {
    /// Print JSON for machines instead of text for people
    #[arg(long)]
    json: bool,
}

/// Which server is asked, and how its answer is shown.
#[derive(Debug, Clone, Args)]
struct Remote {
    /// Where the server answers
    #[arg(long, env = "LONGSHORE_URL", default_value = "http://127.0.0.1:8080", hide_env_values = true)]
    url: String,
    /// The pool that is meant, where a server takes part in several [default: the first of its own]
    #[arg(long, env = "LONGSHORE_POOL", hide_env_values = true)]
    pool: Option<Id>,
    #[command(flatten)]
    form: Form,
}

impl Remote {
    fn open(&self) -> Result<(Client, Paper), Failure> {
        let client = Client::new(&self.url)?;
        Ok((client.in_pool(self.pool.clone()), Paper::new(self.form)))
    }
}

/// How a server or a runner logs.
#[derive(Debug, Clone, Copy, Args)]
struct LogArgs {
    /// Form of the log lines on standard error
    #[arg(long, value_enum, default_value_t = LogForm::Text)]
    log: LogForm,
    /// The least important level that is written
    #[arg(long, value_enum, default_value_t = LogLevel::Info)]
    log_level: LogLevel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogForm {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogArgs {
    fn logging(self) -> Logging {
        Logging {
            format: match self.log {
                LogForm::Text => Format::Text,
                LogForm::Json => Format::Json,
            },
            level: match self.log_level {
                LogLevel::Error => Level::Error,
                LogLevel::Warn => Level::Warn,
                LogLevel::Info => Level::Info,
                LogLevel::Debug => Level::Debug,
                LogLevel::Trace => Level::Trace,
            },
        }
    }
}

/// Reads `KEY=VALUE`.
fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let ended = run(cli.command);
    if let Err(failure) = &ended {
        failure.show();
    }
    ended.map_or_else(|failure| failure.exit_code(), |()| ExitCode::SUCCESS)
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(serve) => whole(serve.run()),
        Command::Runner(runner) => whole(runner.run()),
        Command::Submit(submit) => light(submit.run()),
        Command::Ps(ps) => light(ps.run()),
        Command::Ready(ready) => light(ready.run()),
        Command::Runners(runners) => light(runners.run()),
        Command::Why(why) => light(why.run()),
        Command::Provision(provision) => light(provision.run()),
        Command::Intents(intents) => light(intents.run()),
        Command::Logs(logs) => light(logs.run()),
        Command::Cancel(cancel) => light(cancel.run()),
        Command::Hold(hold) => light(hold.run()),
        Command::Drain(drain) => light(drain.run()),
        Command::Resume(resume) => light(resume.run()),
        Command::Pause(pause) => light(pause.run()),
        Command::Unpause(unpause) => light(unpause.run()),
        Command::Unfreeze(unfreeze) => light(unfreeze.run()),
        Command::Table(table) => light(table.run()),
        Command::Doctor(doctor) => light(doctor.run()),
        Command::Conform(conform) => whole(conform.run()),
        Command::Completions(completions) => completions.run(),
        Command::Demo(demo) => whole(demo.run()),
        Command::Bench(bench) => whole(bench.run()),
        Command::Guard(guard) => light(guard.run()),
    }
}

/// Runs a command that mostly waits for a server, on one thread.
fn light<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    on(&mut tokio::runtime::Builder::new_current_thread(), command)
}

/// Runs a command that carries a dispatcher or runners, on all cpus.
fn whole<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    on(&mut tokio::runtime::Builder::new_multi_thread(), command)
}

fn on<T>(
    builder: &mut tokio::runtime::Builder,
    command: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let runtime = builder.enable_all().build();
    let runtime = runtime.map_err(|why| Failure::Broken(format!("start the program's threads: {why}")))?;
    runtime.block_on(command)
}
