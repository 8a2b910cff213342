//! The live picture of the demo: counts, and a line for each runner with what it has.
//!
//! Law: it only looks, over the public API, and only on a terminal.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;
use tokio::time::sleep;

use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::paper::{Paper, text};
use crate::cli::runners;

const LOOK_EVERY: Duration = Duration::from_millis(120);

/// Says a line above the picture.
#[derive(Debug, Clone)]
pub(super) struct Voice {
    lines: MultiProgress,
    paper: Paper,
}

impl Voice {
    /// Says it to people; machines get it with the results.
    pub(super) fn say(&self, text: impl AsRef<str>) {
        if !self.paper.is_json() {
            self.lines.suspend(|| self.paper.line(text));
        }
    }
}

/// The lines on the terminal.
#[derive(Debug)]
pub(super) struct Board {
    paper: Paper,
    lines: MultiProgress,
    counts: ProgressBar,
    runners: Vec<ProgressBar>,
}

impl Board {
    /// A board, hidden where there is no terminal.
    pub(super) fn new(paper: Paper) -> Self {
        let target =
            if paper.is_moving() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let lines = MultiProgress::with_draw_target(target);
        let counts = lines.add(ProgressBar::new_spinner());
        counts.set_style(style("{spinner:.cyan} {msg}"));
        counts.enable_steady_tick(Duration::from_millis(100));
        Self { paper, lines, counts, runners: Vec::new() }
    }

    /// A way to say something while the picture moves.
    pub(super) fn voice(&self) -> Voice {
        Voice { lines: self.lines.clone(), paper: self.paper }
    }

    /// Shows how things stand until it is dropped. Does not end by itself.
    pub(super) async fn follow(&mut self, client: &Client) -> Failure {
        loop {
            if let Err(failure) = self.look(client).await {
                return failure;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Takes all lines off the terminal.
    pub(super) fn clear(&self) {
        self.counts.finish_and_clear();
        self.runners.iter().for_each(ProgressBar::finish_and_clear);
        // A terminal that cannot be cleared keeps its lines.
        let _ = self.lines.clear();
    }

    async fn look(&mut self, client: &Client) -> Result<(), Failure> {
        let status = client.get("/v1/status", &[]).await?;
        let count =
            |name: &str| status.pointer(&format!("/counts/{name}")).and_then(Value::as_u64).unwrap_or(0);
        let running = count("assigned") + count("running");
        let counts = format!("pending {:<5} running {running:<5} ended {}", count("pending"), count("ended"));
        self.counts.set_message(counts);
        for (place, runner) in runners::list(client).await?.iter().enumerate() {
            if self.runners.len() <= place {
                let line = self.lines.add(ProgressBar::new(1));
                line.set_style(style("  {prefix:<10} {bar:16.green/dim} {msg:.dim}").progress_chars("━━─"));
                self.runners.push(line);
            }
            show(&self.runners[place], runner);
        }
        Ok(())
    }
}

fn show(line: &ProgressBar, runner: &Value) {
    let cpu = |what: &str| {
        let cores = runner.pointer(&format!("/{what}/cpu")).and_then(Value::as_f64).unwrap_or(0.0);
        // A bar of thousandths; a fleet of this size is far below any limit.
        Duration::try_from_secs_f64(cores).map_or(0, |cores| u64::try_from(cores.as_millis()).unwrap_or(0))
    };
    line.set_length(cpu("capacity"));
    line.set_position(cpu("held"));
    line.set_prefix(text(runner, "id").to_owned());
    let tasks = runner.get("assignments").and_then(Value::as_array);
    let tasks: Vec<&str> = tasks.into_iter().flatten().map(|task| text(task, "id")).collect();
    line.set_message(tasks.join("  "));
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is legal")
}
