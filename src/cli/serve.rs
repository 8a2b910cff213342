//! `serve`: a dispatcher with its durable table, until it is asked to stop.

use std::path::PathBuf;

use clap::Args;

use super::failure::Failure;
use super::paper::Paper;
use super::{Form, LogForm, LogLevel, embedded, shared, signals};
use crate::broker::shown;
use crate::config::{self, Flag};
use crate::runtime::Stopped;
use crate::telemetry::logs;

/// Run the dispatcher: a durable table in a directory, and the HTTP API
#[derive(Debug, Args)]
pub(super) struct Serve {
    /// A configuration file; config/longshore.toml shows every key
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the table is kept [default: longshore-data]
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// Address and port of the HTTP API [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Form of the log lines on standard error [default: text]
    #[arg(long, value_enum)]
    log: Option<LogForm>,
    /// The least important level that is written [default: info]
    #[arg(long, value_enum)]
    log_level: Option<LogLevel>,
    /// Share the table over NATS with other replicas, at one or more addresses separated by commas
    #[arg(long, env = "LONGSHORE_NATS", value_name = "URL", hide_env_values = true)]
    nats: Option<String>,
}

impl Serve {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let settings = self.settings()?;
        logs::install(settings.log);
        let stop = signals::stop_asked()?;
        let (running, place) = match &settings.nats {
            Some(nats) => {
                let place = format!("on {}", shown(&nats.server.url));
                (shared::start(&settings, nats, stop.clone()).await?, place)
            }
            None => {
                let place = format!("in {}", settings.server.data.display());
                (embedded::start(&settings, stop.clone()).await?, place)
            }
        };
        let url = running.url();
        let next = format!("next: longshore runner --url {url}");
        Paper::new(Form { json: false })
            .line(format!("longshore listens on {url} and keeps its table {place}; {next}"));
        match running.finished().await {
            Stopped::Released => Ok(()),
            Stopped::Deposed => Err(Failure::Broken(format!("another process writes to the table {place}"))),
            Stopped::InTrouble(why) => {
                let why =
                    format!("the table {place} took nothing at the end: {why}; nothing acknowledged is lost");
                Err(Failure::Broken(why))
            }
        }
    }

    fn settings(&self) -> Result<config::Settings, Failure> {
        let word = |value: &dyn std::fmt::Debug| format!("{value:?}").to_lowercase();
        let flags = [
            ("--data", "server.data", self.data.clone()),
            ("--listen", "server.listen", self.listen.clone()),
            ("--nats", "nats.url", self.nats.clone()),
            ("--log", "log.format", self.log.map(|form| word(&form))),
            ("--log-level", "log.level", self.log_level.map(|level| word(&level))),
        ];
        let flags: Vec<Flag> = flags
            .into_iter()
            .filter_map(|(name, key, value)| Some(Flag { name, key, value: value? }))
            .collect();
        Ok(config::load(self.config.as_deref(), config::environment(), &flags)?)
    }
}
