//! The names on NATS: subjects, streams, consumers and the bucket of one pool.
//!
//! Law: every name of a pool begins with its prefix, and ids are single tokens, so no two pools and no two
//! runners ever share a subject. What stands here is the protocol; nothing else spells a subject.

use crate::model::{Id, Kind, LifecycleState, QueueId, RunnerId, TaskId, Token};

/// In the metadata of every stream: the id of the table it belongs to.
pub const OF_TABLE: &str = "longshore.table";

/// The names of one pool.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Names {
    prefix: String,
}

/// What a submission's subject says of the tasks in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Submitting {
    Tasks { kind: Kind, queue: QueueId, build: Option<TaskId> },
    Cancel,
}

/// What a report's subject says of the reports in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reporting {
    pub kind: Kind,
    /// `start` or `end`.
    pub report: &'static str,
    pub runner: RunnerId,
}

/// What a runner asks of the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ask {
    Register,
    Heartbeat,
    Leave,
}

impl Ask {
    /// All of them.
    pub const ALL: [Ask; 3] = [Ask::Register, Ask::Heartbeat, Ask::Leave];

    /// The word in its subject.
    pub fn as_str(self) -> &'static str {
        match self {
            Ask::Register => "register",
            Ask::Heartbeat => "heartbeat",
            Ask::Leave => "leave",
        }
    }
}

/// The name of the pool that is there when nobody names one.
pub const DEFAULT_POOL: &str = "default";

impl Names {
    /// The names of a pool.
    pub fn of_pool(pool: &str) -> Self {
        let prefix = if pool == DEFAULT_POOL { "longshore".to_owned() } else { format!("longshore-{pool}") };
        Self { prefix }
    }

    /// The first token of every subject of this pool, and the name of its bucket.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The stream behind the bucket.
    pub fn bucket_stream(&self) -> String {
        format!("KV_{}", self.prefix)
    }

    /// The subject of a key in the bucket.
    pub fn key(&self, key: &str) -> String {
        format!("$KV.{}.{key}", self.prefix)
    }

    /// The stream of submissions and cancels.
    pub fn submit_stream(&self) -> String {
        self.stream("SUBMIT")
    }

    /// The stream of reports.
    pub fn report_stream(&self) -> String {
        self.stream("REPORT")
    }

    /// The stream of history and dead letters.
    pub fn history_stream(&self) -> String {
        self.stream("HISTORY")
    }

    fn stream(&self, what: &str) -> String {
        format!("{}_{what}", self.prefix.to_uppercase())
    }

    /// What the stream of submissions takes.
    pub fn submit_filters(&self) -> Vec<String> {
        let mut filters: Vec<String> = ["build", "job"].map(|kind| self.pending_filter(kind)).to_vec();
        filters.extend([self.jobs_of_builds_filter(), self.cancel()]);
        filters
    }

    /// Builds or jobs, without the jobs of builds.
    pub fn pending_filter(&self, kind: &str) -> String {
        format!("{}.{kind}.pending.*", self.prefix)
    }

    /// Jobs that name a build.
    pub fn jobs_of_builds_filter(&self) -> String {
        format!("{}.job.pending.*.*", self.prefix)
    }

    /// What the stream of reports takes.
    pub fn report_filters(&self) -> Vec<String> {
        [("job", "start"), ("job", "end"), ("build", "start"), ("build", "end")]
            .map(|(kind, report)| format!("{}.{kind}.{report}.*", self.prefix))
            .to_vec()
    }

    /// Where tasks of a kind and queue are submitted.
    pub fn pending(&self, kind: Kind, queue: &QueueId, build: Option<&TaskId>) -> String {
        match build {
            Some(build) if kind == Kind::Job => format!("{}.job.pending.{queue}.{build}", self.prefix),
            _ => format!("{}.{}.pending.{queue}", self.prefix, kind.as_str()),
        }
    }

    /// Where tasks are cancelled.
    pub fn cancel(&self) -> String {
        format!("{}.task.cancel", self.prefix)
    }

    /// Where a runner reports; `report` is `start` or `end`.
    pub fn report(&self, kind: Kind, report: &str, runner: &RunnerId) -> String {
        format!("{}.{}.{report}.{runner}", self.prefix, kind.as_str())
    }

    /// Where a runner asks the leader something.
    pub fn ask(&self, ask: Ask, runner: &RunnerId) -> String {
        format!("{}.runner.{}.{runner}", self.prefix, ask.as_str())
    }

    /// Where the leader hears all runners ask.
    pub fn asks(&self, ask: Ask) -> String {
        format!("{}.runner.{}.*", self.prefix, ask.as_str())
    }

    /// Where a runner gets its assignments.
    pub fn assign(&self, runner: &RunnerId) -> String {
        format!("{}.assign.{runner}", self.prefix)
    }

    /// Where commands are given.
    pub fn command(&self) -> String {
        format!("{}.command", self.prefix)
    }

    /// Where tasks are asked for one by one.
    pub fn pull(&self) -> String {
        format!("{}.pull", self.prefix)
    }

    /// Where a lifecycle event is told.
    pub fn event(&self, kind: Kind, state: LifecycleState, queue: &QueueId) -> String {
        format!("{}.event.{}.{}.{queue}", self.prefix, kind.as_str(), state.as_str())
    }

    /// Where the history of turns is kept.
    pub fn history(&self) -> String {
        format!("{}.history", self.prefix)
    }

    /// Where what a task's attempts on a runner write is kept, each under its token; `*` stands for any runner.
    pub fn output_of(&self, runner: &str, task: &TaskId) -> String {
        format!("{}.output.{runner}.{task}", self.prefix)
    }

    /// All output.
    pub fn output_filter(&self) -> String {
        format!("{}.output.>", self.prefix)
    }

    /// The attempt whose output has this subject.
    pub fn token_of_output(&self, subject: &str) -> Option<Token> {
        let mut tokens = self.tokens(subject)?;
        let (word, _runner, _task) = (tokens.next()?, tokens.next()?, tokens.next()?);
        let token = tokens.collect::<Vec<_>>().join(".");
        (word == "output").then(|| token.parse().ok())?
    }

    /// Where input goes that cannot be taken; `reason` is one word.
    pub fn dead(&self, reason: &str) -> String {
        format!("{}.dead.{reason}", self.prefix)
    }

    /// Every dead letter.
    pub fn dead_filter(&self) -> String {
        format!("{}.dead.>", self.prefix)
    }

    /// What the subject of a message in the stream of submissions says; nothing if it is none of ours.
    pub fn submitting(&self, subject: &str) -> Option<Submitting> {
        if subject == self.cancel() {
            return Some(Submitting::Cancel);
        }
        let mut tokens = self.tokens(subject)?;
        let kind = kind(tokens.next()?)?;
        if tokens.next()? != "pending" {
            return None;
        }
        let queue = Id::parse(tokens.next()?).ok()?;
        let build = tokens.next().map(Id::parse).transpose().ok()?;
        (tokens.next().is_none()).then_some(Submitting::Tasks { kind, queue, build })
    }

    /// What the subject of a report says.
    pub fn reporting(&self, subject: &str) -> Option<Reporting> {
        let mut tokens = self.tokens(subject)?;
        let kind = kind(tokens.next()?)?;
        let word = tokens.next()?;
        let report = ["start", "end"].into_iter().find(|report| *report == word)?;
        let runner = Id::parse(tokens.next()?).ok()?;
        tokens.next().is_none().then_some(Reporting { kind, report, runner })
    }

    /// The runner that asks on `subject`.
    pub fn asking(&self, ask: Ask, subject: &str) -> Option<RunnerId> {
        let mut tokens = self.tokens(subject)?;
        if tokens.next()? != "runner" || tokens.next()? != ask.as_str() {
            return None;
        }
        let runner = Id::parse(tokens.next()?).ok()?;
        tokens.next().is_none().then_some(runner)
    }

    fn tokens<'a>(&self, subject: &'a str) -> Option<std::str::Split<'a, char>> {
        Some(subject.strip_prefix(&self.prefix)?.strip_prefix('.')?.split('.'))
    }
}

fn kind(word: &str) -> Option<Kind> {
    [Kind::Job, Kind::Build].into_iter().find(|kind| kind.as_str() == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> Id {
        Id::parse(text).expect("a name")
    }

    #[test]
    fn a_subject_is_read_back_as_what_it_was_made_of() {
        for pool in [DEFAULT_POOL, "gpu"] {
            let names = Names::of_pool(pool);
            let (queue, build, runner) = (id("q"), id("b-1"), id("r1"));
            for kind in [Kind::Job, Kind::Build] {
                let plain = names.submitting(&names.pending(kind, &queue, None));
                assert_eq!(plain, Some(Submitting::Tasks { kind, queue: queue.clone(), build: None }));
                for report in ["start", "end"] {
                    let read = names.reporting(&names.report(kind, report, &runner));
                    assert_eq!(read, Some(Reporting { kind, report, runner: runner.clone() }));
                }
            }
            let of_build = names.submitting(&names.pending(Kind::Job, &queue, Some(&build)));
            assert_eq!(of_build, Some(Submitting::Tasks { kind: Kind::Job, queue, build: Some(build) }));
            assert_eq!(names.submitting(&names.cancel()), Some(Submitting::Cancel));
            for ask in Ask::ALL {
                assert_eq!(names.asking(ask, &names.ask(ask, &runner)), Some(runner.clone()));
            }
        }
    }

    #[test]
    fn subjects_of_another_pool_or_shape_say_nothing() {
        let names = Names::of_pool(DEFAULT_POOL);
        let foreign = Names::of_pool("gpu").pending(Kind::Job, &id("q"), None);
        for subject in [
            foreign.as_str(),
            "longshore.job.pending",
            "longshore.task.pending.q",
            "longshorex.job.pending.q",
        ] {
            assert_eq!(names.submitting(subject), None, "{subject}");
        }
        assert_eq!(names.reporting("longshore.job.middle.r1"), None);
        assert_eq!(names.reporting("longshore.job.end.r1.more"), None);
        assert_eq!(names.asking(Ask::Register, "longshore.runner.leave.r1"), None);
    }
}
