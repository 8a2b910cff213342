//! `doctor`: is everything there that a dispatcher needs, and does it do what it should?
//!
//! Law: nothing is changed by asking. One line each thing: `ok`, `warn` (it works, and could be better) or `fail`
//! (somebody must act), with the remedy. What cannot be seen from here is said to be so, never guessed. 1 if
//! anything failed.

mod embedded;
mod nats;
mod permissions;
mod replicas;

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::Form;
use super::failure::Failure;
use super::nats::NatsArgs;
use super::paper::{Ink, Paper};

/// Look after a dispatcher and what it stands on, and say what to do
#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// A dispatcher to ask over HTTP; may be repeated [default: http://127.0.0.1:8080, without --nats]
    #[arg(long = "url", value_name = "URL", env = "LONGSHORE_URL", hide_env_values = true)]
    urls: Vec<String>,
    /// The directory of a table in a file; wins over --nats [default: longshore-data]
    #[arg(long)]
    data: Option<PathBuf>,
    /// The monitoring port of the NATS server, like http://127.0.0.1:8222: what only it tells is asked there
    #[arg(long, value_name = "URL")]
    monitoring: Option<String>,
    #[command(flatten)]
    nats: NatsArgs,
    #[command(flatten)]
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

/// What was found out about one thing.
#[derive(Debug)]
struct Finding {
    about: String,
    verdict: Verdict,
    says: String,
    remedy: Option<String>,
}

/// What was found out so far.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Doctor {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let paper = Paper::new(self.form);
        let named = if self.data.is_none() { self.nats.named("doctor".to_owned())? } else { None };
        let spinner = paper.spinner("looking");
        let mut found = Findings::default();
        let looked = match &named {
            Some(named) => nats::look(&mut found, named, &self.urls, self.monitoring.as_deref()).await,
            None => embedded::look(&mut found, self.data.as_deref(), &self.urls).await,
        };
        spinner.finish_and_clear();
        looked?;
        found.show(paper)
    }
}

impl Findings {
    fn ok(&mut self, about: impl Into<String>, says: impl Into<String>) {
        self.put(about, Verdict::Ok, says, None);
    }

    fn warn(&mut self, about: impl Into<String>, says: impl Into<String>, remedy: &str) {
        self.put(about, Verdict::Warn, says, Some(remedy.to_owned()));
    }

    /// The remedy may be empty where what is said names it.
    fn fail(&mut self, about: impl Into<String>, says: impl Into<String>, remedy: &str) {
        self.put(about, Verdict::Fail, says, Some(remedy.to_owned()));
    }

    fn put(
        &mut self,
        about: impl Into<String>,
        verdict: Verdict,
        says: impl Into<String>,
        remedy: Option<String>,
    ) {
        let says = says.into().replace('\n', " ");
        let remedy = remedy.filter(|remedy| !remedy.is_empty());
        self.0.push(Finding { about: about.into(), verdict, says, remedy });
    }

    /// How full something is that takes nothing more once it is.
    fn fullness(&mut self, about: &str, says: String, (used, room): (u64, u64), remedy: &str) {
        let percent = used.saturating_mul(100).checked_div(room).unwrap_or(0);
        match percent {
            0..80 => self.ok(about, says),
            80..95 => self.warn(about, format!("{says}, {percent}% full"), remedy),
            _ => self.fail(about, format!("{says}, {percent}% full"), remedy),
        }
    }

    fn show(self, paper: Paper) -> Result<(), Failure> {
        let failed = self.0.iter().filter(|one| one.verdict == Verdict::Fail).count();
        let warned = self.0.iter().filter(|one| one.verdict == Verdict::Warn).count();
        if paper.is_json() {
            let checks: Vec<Value> = self.0.iter().map(Finding::json).collect();
            paper.json(&json!({"ok": failed == 0, "failed": failed, "warned": warned, "checks": checks}));
        } else {
            let width = self.0.iter().map(|one| one.about.chars().count()).max().unwrap_or(0);
            self.0.iter().for_each(|one| paper.line(one.line(paper, width)));
        }
        if failed == 0 { Ok(()) } else { Err(Failure::Work(1)) }
    }
}

impl Finding {
    fn json(&self) -> Value {
        json!({"check": self.about, "verdict": self.verdict.word(), "says": self.says, "remedy": self.remedy})
    }

    fn line(&self, paper: Paper, width: usize) -> String {
        let ink = match self.verdict {
            Verdict::Ok => Ink::Good,
            Verdict::Warn => Ink::Busy,
            Verdict::Fail => Ink::Bad,
        };
        let word = paper.ink(ink, format!("{:<4}", self.verdict.word()));
        let remedy = self.remedy.as_ref().map(|remedy| format!("; {remedy}")).unwrap_or_default();
        format!("{word}  {:<width$}  {}{remedy}", self.about, self.says)
    }
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "fail",
        }
    }
}

/// An amount of bytes as people say it.
fn bytes(amount: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.iter().find(|(_, shift)| amount >> shift > 0) {
        Some((unit, shift)) => {
            let (whole, tenth) = (amount >> shift, ((amount & ((1 << shift) - 1)) * 10) >> shift);
            if tenth == 0 { format!("{whole} {unit}") } else { format!("{whole}.{tenth} {unit}") }
        }
        None => format!("{amount} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_as_people_say_them() {
        assert_eq!(bytes(17), "17 bytes");
        assert_eq!(bytes(1 << 30), "1 GiB");
        assert_eq!(bytes((3 << 20) + (1 << 19)), "3.5 MiB");
    }

    #[test]
    fn what_is_nearly_full_is_warned_of_before_it_fails() {
        let mut found = Findings::default();
        for used in [10, 80, 95, 100] {
            found.fullness("bucket", "it has some".to_owned(), (used, 100), "give it more");
        }
        let words: Vec<&str> = found.0.iter().map(|one| one.verdict.word()).collect();
        assert_eq!(words, ["ok", "warn", "fail", "fail"]);
    }
}
