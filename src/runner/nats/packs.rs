//! Reports as messages for their stream: the subject of each says what all in it are.
//!
//! Law: the same reports make the same messages with the same ids, so that the stream knows what it has. A build's
//! start goes before its jobs', its end after theirs, and every attempt's start before its end; beyond that a start
//! may overtake an end: it says only that its own attempt began. Reports of short tasks would otherwise
//! alternate, and each be a message of its own. None overtakes far: the start of a short task and its end arrive
//! together, and one turn that takes both writes the task once.

use uuid::Uuid;

use crate::model::{Kind, Report, RunnerId};
use crate::wire::message::write_reports;
use crate::wire::subject::Names;

/// The longest message on NATS, in bytes.
pub(super) const LONGEST: usize = 256 << 10;

/// Among how many reports the order is changed: a turn takes in several times as many, so few pairs are parted.
const SORTED: usize = 128;

/// What goes into one message, in this order.
const ORDER: [(Kind, &str); 4] =
    [(Kind::Build, "start"), (Kind::Job, "start"), (Kind::Job, "end"), (Kind::Build, "end")];

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pack {
    pub(super) subject: String,
    pub(super) id: String,
    pub(super) body: Vec<u8>,
}

/// The messages that say all of `reports`. Those of one list may be on their way together, in order; the next list
/// leaves once they are there: nothing of a build is told before its start, nor after its end.
pub(super) fn packs(names: &Names, runner: &RunnerId, reports: &[Report]) -> Vec<Vec<Pack>> {
    let mut lists: Vec<Vec<Pack>> = Vec::new();
    let mut before = None;
    for few in reports.chunks(SORTED) {
        for (kind, word) in ORDER {
            let same = few.iter().filter(|report| report.kind == kind && report.what.as_str() == word);
            let same: Vec<Report> = same.cloned().collect();
            if same.is_empty() {
                continue;
            }
            let subject = names.report(kind, word, runner);
            let of = Some((kind == Kind::Build).then_some(word));
            if std::mem::replace(&mut before, of) != of {
                lists.push(Vec::new());
            }
            pack(&subject, &same, lists.last_mut().expect("one was just begun"));
        }
    }
    lists
}

/// Halves what is too long. One report alone is far below the limit.
fn pack(subject: &str, reports: &[Report], packs: &mut Vec<Pack>) {
    let body = write_reports(reports);
    if body.len() < LONGEST || reports.len() == 1 {
        let of_subject = Uuid::new_v5(&Uuid::NAMESPACE_OID, subject.as_bytes());
        let id = Uuid::new_v5(&of_subject, &body).to_string();
        return packs.push(Pack { subject: subject.to_owned(), id, body });
    }
    for half in reports.chunks(reports.len().div_ceil(2)) {
        pack(subject, half, packs);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AttemptOutcome, End, Id, Reported, Token};
    use crate::wire::message::{Said, read_reports};
    use crate::wire::subject::DEFAULT_POOL;

    fn id(text: &str) -> Id {
        Id::parse(text).expect("a name")
    }

    fn report(kind: Kind, index: u32, message: Option<&str>) -> Report {
        let end = |text: &str| End {
            outcome: AttemptOutcome::Failed,
            exit_code: Some(1),
            message: Some(text.into()),
            artifacts: Vec::new(),
        };
        Report {
            runner: id("r1"),
            incarnation: "i".into(),
            kind,
            id: id(&format!("t{index}")),
            token: Token { epoch: 1, turn: 5, index },
            what: message.map_or(Reported::Start, |text| Reported::End(end(text))),
        }
    }

    #[test]
    fn the_subject_of_each_message_is_true_of_all_in_it() {
        let (names, runner) = (Names::of_pool(DEFAULT_POOL), id("r1"));
        let reports: Vec<Report> = (0..40)
            .map(|number| {
                let kind = if number % 4 < 2 { Kind::Job } else { Kind::Build };
                report(kind, number / 2, (number % 2 == 1).then_some("no"))
            })
            .collect();
        let made = packs(&names, &runner, &reports);
        let subjects = |list: &Vec<Pack>| list.iter().map(|pack| pack.subject.clone()).collect::<Vec<_>>();
        let subjects: Vec<Vec<String>> = made.iter().map(subjects).collect();
        let of_runner = |name| format!("longshore.{name}.r1");
        let jobs = vec![of_runner("job.start"), of_runner("job.end")];
        assert_eq!(subjects, [vec![of_runner("build.start")], jobs, vec![of_runner("build.end")]]);
        let mut read = Vec::new();
        for pack in made.iter().flatten() {
            let says = names.reporting(&pack.subject).expect("a report's subject");
            let said = Said { runner: Some(&says.runner), kind: Some(says.kind), report: Some(says.report) };
            read.extend(read_reports(&pack.body, said).expect("it contradicts nothing"));
        }
        assert_eq!(read.len(), reports.len());
        assert!(reports.iter().all(|report| read.contains(report)));
        assert_eq!(packs(&names, &runner, &reports), made, "the same words have the same ids");
        assert!(packs(&names, &runner, &[]).is_empty());
    }

    #[test]
    fn the_ends_of_short_tasks_stand_near_their_starts() {
        let (names, runner) = (Names::of_pool(DEFAULT_POOL), id("r1"));
        let said = |index| [None, Some("no")].map(|message| report(Kind::Job, index, message));
        let reports: Vec<Report> = (0..1_000).flat_map(said).collect();
        let made = packs(&names, &runner, &reports);
        let [made] = &made[..] else { panic!("nothing waits for an answer between: {}", made.len()) };
        let tasks = |pack: &Pack| {
            let said = Said { runner: Some(&runner), ..Said::default() };
            let read = read_reports(&pack.body, said).expect("our own words");
            read.into_iter().map(|report| report.id).collect::<Vec<_>>()
        };
        for pair in made.chunks(2) {
            let [start, end] = pair else { panic!("a start without its end") };
            assert!(start.subject.contains("start") && end.subject.contains("end"));
            assert_eq!(tasks(start), tasks(end));
            assert!(tasks(start).len() <= SORTED / 2);
        }
    }

    #[test]
    fn what_is_too_long_for_one_message_is_split_in_order() {
        let (names, runner) = (Names::of_pool(DEFAULT_POOL), id("r1"));
        let long = "x".repeat(4_000);
        let reports: Vec<Report> = (0..500).map(|number| report(Kind::Job, number, Some(&long))).collect();
        let made = packs(&names, &runner, &reports).concat();
        assert!(made.len() > 7 && made.iter().all(|pack| pack.body.len() < LONGEST), "{}", made.len());
        let mut ids: Vec<&str> = made.iter().map(|pack| pack.id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), made.len());
        let said = Said { runner: Some(&runner), ..Said::default() };
        let read = made.iter().flat_map(|pack| read_reports(&pack.body, said).expect("our own words"));
        assert!(read.eq(reports));
    }
}
