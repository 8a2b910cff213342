//! A runner whose work is a function, in a process of its own: this test binary once more.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use longshore::runner::{Attempt, End, Runner, Update};
use tokio::signal::unix::{SignalKind, signal};

use super::conform;

/// What the inner process finds: where the dispatcher is, its id, its directory.
const INNER: &str = "CONFORM_FUNCTIONS";

#[test]
fn a_runner_of_functions_keeps_the_rules() {
    if let Ok(inner) = std::env::var(INNER) {
        return run(&inner);
    }
    let this = std::env::current_exe().expect("this binary");
    let test = "functions::a_runner_of_functions_keeps_the_rules";
    let runner = format!("env {INNER}={{url}},{{id}},{{data}} {} --exact {test} --nocapture", this.display());
    conform(&["--runner", &runner, "--grace", "5s"]).all_passed(19);
}

#[tokio::main]
async fn run(inner: &str) {
    let words: Vec<&str> = inner.split(',').collect();
    let runner = Runner::builder().url(words[0]).id(words[1]).data_dir(words[2]).slots(4);
    let runner = runner.grace(Duration::from_secs(2)).run(marked).build().await.expect("it is legal");
    let mut term = signal(SignalKind::terminate()).expect("it can be heard");
    if let Err(why) = runner.run_until(term.recv()).await {
        eprintln!("{why}");
        std::process::exit(1);
    }
}

/// Does what the kit's command would do.
async fn marked(mut attempt: Attempt) -> End {
    let [.., file, beats, code, term, _] = &attempt.order.command[..] else {
        return End::failed("this is no work of the kit");
    };
    let (beats, code): (u32, i32) = (beats.parse().expect("a number"), code.parse().expect("a number"));
    let mark = |line: &str| {
        let marks = std::fs::File::options().create(true).append(true).open(file);
        writeln!(marks.expect("the kit's directory"), "{line}").expect("it can be written");
    };
    mark(&format!("start {}", attempt.token));
    for _ in 0..beats {
        if Path::new(&format!("{file}.go")).exists() {
            break;
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(50)) => mark("beat"),
            Some(Update::Stop { .. }) = attempt.updates.next(), if term == "heeds" => {
                mark("term");
                return End::stopped();
            }
        }
    }
    mark("end");
    let end = if code == 0 { End::succeeded() } else { End::failed("it was told to") };
    End { exit_code: Some(code), ..end }
}
