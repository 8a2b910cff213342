//! The durable inbox between producers, runners and whoever leads.
//!
//! Law: a letter stays until it is acknowledged. What was handed to a replica that ended, stood still or gave it
//! back is handed out again, perhaps to another and in another order.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::random::Random;
use crate::core::input::{Command, Input};
use crate::model::{NewTask, Report, RunnerId, TaskId};

/// How long a letter is out before it is handed out again, in milliseconds: the take-over time.
pub(super) const OUT_FOR: u64 = 3_000;

/// What a letter says.
#[derive(Debug, Clone)]
pub(super) enum Mail {
    Submit(Arc<NewTask>),
    Cancel { id: TaskId },
    Report(Report),
}

/// Reports that came in one message, and who waits to hear that they were taken.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    pub runner: RunnerId,
    pub incarnation: u64,
    pub through: u64,
    pub left: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Ready { at: u64 },
    Out { replica: usize, life: u64, until: u64 },
}

#[derive(Debug)]
struct Letter {
    mail: Mail,
    batch: Option<u64>,
    place: Place,
}

/// All letters that were not acknowledged.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    letters: BTreeMap<u64, Letter>,
    batches: BTreeMap<u64, Batch>,
    count: u64,
}

impl Inbox {
    /// Stores a letter.
    pub fn put(&mut self, mail: Mail, batch: Option<u64>, now: u64) -> u64 {
        self.count += 1;
        self.letters.insert(self.count, Letter { mail, batch, place: Place::Ready { at: now } });
        self.count
    }

    /// Notes who waits for several letters.
    pub fn put_batch(&mut self, batch: Batch) -> u64 {
        self.count += 1;
        self.batches.insert(self.count, batch);
        self.count
    }

    /// The number of the last letter.
    pub fn last(&self) -> u64 {
        self.count
    }

    /// Whether nothing waits for an acknowledgement.
    pub fn is_empty(&self) -> bool {
        self.letters.is_empty()
    }

    /// Hands out what is ready: at most `most` letters that are not reports, and all reports.
    pub fn pull(
        &mut self,
        (replica, life): (usize, u64),
        now: u64,
        most: usize,
        random: &mut Random,
    ) -> Vec<(u64, Input)> {
        let mut ready = Vec::new();
        for (number, letter) in &mut self.letters {
            match letter.place {
                Place::Out { until, .. } if until <= now => letter.place = Place::Ready { at: now },
                // Whoever asks for more is alive, and keeps what it has.
                Place::Out { replica: at, life: its, .. } if (at, its) == (replica, life) => {
                    letter.place = Place::Out { replica, life, until: now + OUT_FOR };
                }
                _ => {}
            }
            let is_report = matches!(letter.mail, Mail::Report(_));
            match letter.place {
                Place::Ready { at } if at <= now && (is_report || ready.len() < most) => ready.push(*number),
                _ => {}
            }
        }
        if random.chance(300) {
            random.shuffle(&mut ready);
        }
        let out = Place::Out { replica, life, until: now + OUT_FOR };
        ready.into_iter().map(|number| (number, self.hand_out(number, out))).collect()
    }

    fn hand_out(&mut self, number: u64, out: Place) -> Input {
        let letter = self.letters.get_mut(&number).expect("it was just listed");
        letter.place = out;
        match &letter.mail {
            Mail::Submit(task) => Input::Submit { task: task.clone(), sequence: number },
            Mail::Report(report) => Input::Report(report.clone()),
            Mail::Cancel { id } => {
                let reason = "its producer changed its mind".into();
                Input::Command(Command::Cancel { id: id.clone(), reason, sequence: number })
            }
        }
    }

    /// Whether every report up to letter `upto` is with this replica or was acknowledged.
    pub fn has_all_reports(&self, (replica, life): (usize, u64), upto: u64) -> bool {
        self.letters.range(..=upto).all(|(_, letter)| match letter.place {
            _ if !matches!(letter.mail, Mail::Report(_)) => true,
            Place::Out { replica: at, life: its, .. } => (at, its) == (replica, life),
            Place::Ready { .. } => false,
        })
    }

    /// Takes a letter back, to be handed out again from `at` on.
    pub fn give_back(&mut self, number: u64, at: u64) {
        if let Some(letter) = self.letters.get_mut(&number) {
            letter.place = Place::Ready { at };
        }
    }

    /// Takes back whatever is with a replica.
    pub fn give_back_all(&mut self, whose: (usize, u64), at: u64) {
        for letter in self.letters.values_mut() {
            match letter.place {
                Place::Out { replica, life, .. } if (replica, life) == whose => {
                    letter.place = Place::Ready { at };
                }
                _ => {}
            }
        }
    }

    /// Acknowledges a letter. Returns what it said, and the batch that is complete with it.
    pub fn acknowledge(&mut self, number: u64) -> Option<(Mail, Option<Batch>)> {
        let letter = self.letters.remove(&number)?;
        let complete = letter.batch.and_then(|number| {
            let batch = self.batches.get_mut(&number)?;
            batch.left -= 1;
            if batch.left == 0 { self.batches.remove(&number) } else { None }
        });
        Some((letter.mail, complete))
    }
}
