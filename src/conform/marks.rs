//! Work whose life can be seen: a command that marks a file when it starts, as it goes on, and when it ends.
//!
//! Law: what is seen here does not come from the program that is tried. The time of the last mark is the file's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

/// The beats of work that goes on until it is stopped, 50 ms each; bounded, should anything of it escape.
const FOREVER: u32 = 2_400;

/// `$1` the file, `$2` how many beats, `$3` the exit code, `$4` what TERM does, `$5` whether a child does the work.
/// Work that finds a file `$1.go` goes on to its end.
const SCRIPT: &str = r#"
case $4 in
heeds) trap 'echo term >> "$1"; exit 143' TERM ;;
ignores) trap '' TERM ;;
esac
if [ "$5" = family ]; then
    sh -c "$0" "$0" "$1" "$2" "$3" "$4" child & wait $!
    exit $?
fi
echo "start ${LONGSHORE_TOKEN:--}" >> "$1"
n=0
while [ $n -lt $2 ] && ! [ -e "$1.go" ]; do
    sleep 0.05
    echo beat >> "$1"
    n=$((n + 1))
done
echo end >> "$1"
exit $3
"#;

/// What a piece of work is like.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    beats: u32,
    code: i32,
    heeds_term: bool,
    family: bool,
}

impl Work {
    /// Work that takes so many beats.
    pub fn of_beats(beats: u32) -> Self {
        Self { beats, code: 0, heeds_term: true, family: false }
    }

    /// Work that goes on until it is stopped or let go.
    pub fn endless() -> Self {
        Self::of_beats(FOREVER)
    }

    /// It ends with this exit code.
    pub fn exits(self, code: i32) -> Self {
        Self { code, ..self }
    }

    /// It does not end when it is asked to, and neither does its child, which does all the work.
    pub fn stubborn(self) -> Self {
        Self { heeds_term: false, family: true, ..self }
    }

    /// A child does the work.
    pub fn in_a_child(self) -> Self {
        Self { family: true, ..self }
    }

    /// The `spec` of a task that does it, marking `file`.
    pub fn spec(self, file: &Path) -> Value {
        let term = if self.heeds_term { "heeds" } else { "ignores" };
        let family = if self.family { "family" } else { "alone" };
        let (beats, code) = (self.beats.to_string(), self.code.to_string());
        json!({
            "command": ["sh", "-c", SCRIPT, SCRIPT, file, beats, code, term, family],
            "conform": {"file": file, "beats": self.beats, "exit_code": self.code},
        })
    }
}

/// The file one attempt marks.
#[derive(Debug, Clone)]
pub struct Marks(pub PathBuf);

/// What stands in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The token each start was told, `-` where it was told none.
    pub starts: Vec<String>,
    pub beats: usize,
    pub ends: usize,
    /// Whether it heard TERM.
    pub term: bool,
    /// When the last mark was made, by the time of day.
    pub last: Duration,
}

impl Marks {
    /// What has been marked so far.
    pub fn seen(&self) -> Seen {
        let Ok(text) = fs::read_to_string(&self.0) else { return Seen::default() };
        let changed = fs::metadata(&self.0).and_then(|about| about.modified());
        let last = changed.ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let mut seen = Seen { last: last.unwrap_or_default(), ..Seen::default() };
        for line in text.lines() {
            match line.split_once(' ').unwrap_or((line, "")) {
                ("start", token) => seen.starts.push(token.to_owned()),
                ("beat", _) => seen.beats += 1,
                ("end", _) => seen.ends += 1,
                ("term", _) => seen.term = true,
                _ => {}
            }
        }
        seen
    }

    /// Whether it was ever started.
    pub fn started(&self) -> bool {
        !self.seen().starts.is_empty()
    }

    /// Lets work that goes on come to its end.
    pub fn let_go(&self) {
        let mut go = self.0.clone().into_os_string();
        go.push(".go");
        fs::write(go, "").expect("the kit's own directory can be written");
    }
}

/// The time of day, as the marks have it.
pub fn time_of_day() -> Duration {
    let time = clock_gettime(ClockId::Realtime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
