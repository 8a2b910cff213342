//! The directions between layers, the size of files, and the words we do not say.

use std::fs;
use std::path::{Path, PathBuf};

/// What each layer may use besides itself.
const MAY_USE: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("core", &["model"]),
    ("ports", &["model"]),
    ("wire", &["model", "core", "ports"]),
    ("broker", &[]),
    ("adapters", &["model", "ports", "wire", "broker"]),
    ("runtime", &["model", "core", "ports"]),
    ("runner", &["model", "ports", "wire", "broker"]),
    ("conform", &["model", "wire", "broker"]),
    ("nats", &["model", "core", "ports", "runtime", "wire", "telemetry", "broker"]),
    ("telemetry", &["model"]),
    ("config", &["model", "core", "wire", "telemetry", "broker"]),
    ("http", &["model", "core", "ports", "runtime", "wire", "telemetry", "config"]),
    ("simulation", &["model", "core", "ports", "runtime", "runner", "adapters", "wire"]),
];

fn sources(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn layer(path: &Path) -> String {
    let inside = path.strip_prefix(root().join("src")).expect("a source");
    let first = inside.iter().next().expect("a name").to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

#[test]
fn layers_know_only_what_is_below_them() {
    let mut wrong = Vec::new();
    for path in sources(&root().join("src")) {
        let layer = layer(&path);
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == layer) else { continue };
        let text = fs::read_to_string(&path).expect("a source");
        for (number, line) in text.lines().enumerate() {
            for used in line.split("crate::").skip(1) {
                let used: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if used != layer && !used.is_empty() && !allowed.contains(&used.as_str()) {
                    wrong.push(format!("{}:{}: {layer} uses {used}", path.display(), number + 1));
                }
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn the_core_reads_no_clock_draws_no_lots_and_does_no_io() {
    const FORBIDDEN: &[&str] =
        &["std::fs", "std::net", "std::time::Instant", "SystemTime", "tokio", "tracing::", "rand::"];
    let mut wrong = Vec::new();
    for layer in ["core", "model"] {
        for path in sources(&root().join("src").join(layer)) {
            let text = fs::read_to_string(&path).expect("a source");
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            for word in FORBIDDEN {
                if code.clone().any(|line| line.contains(word)) {
                    wrong.push(format!("{}: {word}", path.display()));
                }
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn a_file_holds_one_concept_in_about_five_hundred_lines() {
    let mut long = Vec::new();
    for folder in ["src", "tests", "benches"] {
        for path in sources(&root().join(folder)) {
            let lines = fs::read_to_string(&path).expect("a source").lines().count();
            if lines > 600 {
                long.push(format!("{}: {lines} lines", path.display()));
            }
        }
    }
    assert_eq!(long, Vec::<String>::new());
}

#[test]
fn every_module_says_what_it_is_for() {
    let silent: Vec<PathBuf> = sources(&root().join("src"))
        .into_iter()
        .filter(|path| !fs::read_to_string(path).expect("a source").starts_with("//!"))
        .collect();
    assert_eq!(silent, Vec::<PathBuf>::new());
}

#[test]
fn the_words_of_the_glossary_are_used_and_others_are_not() {
    const NOT_SAID: &[&str] =
        &["zombie", "executor", "fn helper", "mod util", "mod utils", "mod helper", "Manager"];
    let mut wrong = Vec::new();
    for path in sources(&root().join("src")) {
        let text = fs::read_to_string(&path).expect("a source");
        for word in NOT_SAID.iter().filter(|word| text.contains(**word)) {
            wrong.push(format!("{}: {word}", path.display()));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}
