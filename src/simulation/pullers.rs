//! The pullers: programs that ask for one task at a time, over a network that loses, doubles and delays what is said.
//!
//! Law: a puller counts its lease from when it sent what was answered, and stops its work before that is over. It
//! begins only after its start was taken. One that vanishes takes its work with it and remembers nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::producers::named;
use super::schedule::{Event, Request};
use super::world::World;
use crate::core::input::{Answer, Command, Commanded, Input};
use crate::model::{
    AttemptOutcome, Given, Held, Id, Kind, LeaseId, LeaseWord, Offer, PullRequest, Pulled, RunnerId,
    Subscription,
};

/// The queue they pull.
pub(super) const TOPIC: &str = "pulled";
/// How often one looks what to do next, in milliseconds.
const LOOK_EVERY: u64 = 150;
/// After how long without an answer something is said again, in milliseconds.
const AGAIN: u64 = 700;
/// How long one waits for a task, in milliseconds.
const WAIT: u64 = 4_000;

/// What a puller has.
#[derive(Debug, Clone)]
enum Doing {
    Nothing,
    /// It asks, and is tired of it at some time.
    Asking {
        request: PullRequest,
        until: u64,
    },
    /// It has a task and waits for its start to be taken.
    Starting {
        lease: LeaseId,
        runs: u64,
        until: u64,
    },
    /// Its work executes until it ends, or until its lease is over by its own count.
    Working {
        lease: LeaseId,
        runs: u64,
        ends_at: u64,
        until: u64,
        stop: bool,
    },
    /// It says how its work ended, or gives it back, until that is taken.
    Saying {
        lease: LeaseId,
        word: LeaseWord,
    },
}

/// One program.
#[derive(Debug)]
pub(super) struct PullerSide {
    subscription: RunnerId,
    /// It names itself when it asks.
    name: Option<Id>,
    subscribed: bool,
    doing: Doing,
    /// When what was said under which number was sent.
    sent: BTreeMap<u64, u64>,
    numbers: u64,
    said_at: u64,
    down_until: u64,
}

impl PullerSide {
    /// Whether nothing of it is left.
    pub fn is_quiet(&self) -> bool {
        matches!(self.doing, Doing::Nothing | Doing::Asking { .. })
    }

    /// The marks of its work are written under a name of its own.
    fn hand(number: usize) -> RunnerId {
        named(&format!("puller-{number}"))
    }
}

fn held(lease: &LeaseId) -> Held {
    Held { id: lease.task.clone(), token: lease.token }
}

impl World {
    pub(super) fn furnish_pullers(&mut self) {
        for number in 0..self.options.pullers {
            let name = self.random.chance(500).then(|| PullerSide::hand(number));
            self.pullers.push(PullerSide {
                subscription: named(&format!("s{}", number % 2)),
                name,
                subscribed: false,
                doing: Doing::Nothing,
                sent: BTreeMap::new(),
                numbers: 0,
                said_at: 0,
                down_until: 0,
            });
            let at = self.random.below(5_000);
            self.schedule.put(at, Event::PullerLooks { puller: number });
        }
    }

    fn puller(&mut self, number: usize) -> &mut PullerSide {
        &mut self.pullers[number]
    }

    /// What a puller does next.
    pub(super) fn puller_looks(&mut self, number: usize) {
        self.schedule.put(self.now + LOOK_EVERY, Event::PullerLooks { puller: number });
        if self.pullers[number].down_until > self.now {
            return;
        }
        if !self.calm && self.random.chance(4) {
            return self.puller_vanishes(number);
        }
        let now = self.now;
        let due = now >= self.pullers[number].said_at + AGAIN;
        match self.pullers[number].doing.clone() {
            Doing::Nothing if !self.pullers[number].subscribed => {
                if due {
                    self.subscribe(number);
                }
            }
            Doing::Nothing => {
                let request = Uuid::from_u64_pair(self.random.next(), self.random.next());
                let side = &self.pullers[number];
                let (runner, puller) = (side.subscription.clone(), side.name.clone());
                let patient = self.random.chance(800);
                let request = PullRequest { runner, group: None, puller, request, patient };
                self.puller(number).doing = Doing::Asking { request: request.clone(), until: now + WAIT };
                self.puller_says(number, Input::Pull(request));
            }
            Doing::Asking { request, until } if now >= until => {
                let gone = self.random.chance(500);
                self.puller_says(number, Input::Withdraw { asked: request, gone });
                self.puller(number).doing = Doing::Nothing;
            }
            Doing::Asking { request, .. } if due => self.puller_says(number, Input::Pull(request)),
            Doing::Starting { until, .. } if now >= until => self.puller(number).doing = Doing::Nothing,
            Doing::Starting { lease, .. } if due => {
                self.puller_says(number, Input::Command(Command::Lease { lease, word: LeaseWord::Start }));
            }
            Doing::Working { lease, runs, ends_at, until, stop } => {
                if now >= until {
                    self.stop_pulled(number, &lease, None);
                    self.puller(number).doing = Doing::Nothing;
                } else if stop || now >= ends_at {
                    let failed = self.random.chance(self.faults.work_failed);
                    let outcome = match (stop, failed) {
                        (true, _) => AttemptOutcome::Cancelled,
                        (false, true) => AttemptOutcome::Failed,
                        (false, false) => AttemptOutcome::Succeeded,
                    };
                    self.stop_pulled(number, &lease, Some(outcome));
                    let word = LeaseWord::Ack { outcome, exit_code: None, message: None };
                    self.begin_to_say(number, lease, word);
                } else if now >= self.pullers[number].said_at + runs / 4 {
                    let word = LeaseWord::Extend;
                    self.puller_says(number, Input::Command(Command::Lease { lease, word }));
                }
            }
            Doing::Saying { lease, word } if due => {
                self.puller_says(number, Input::Command(Command::Lease { lease, word }));
            }
            Doing::Asking { .. } | Doing::Starting { .. } | Doing::Saying { .. } => {}
        }
    }

    fn subscribe(&mut self, number: usize) {
        let offer = Offer {
            kinds: [Kind::Job, Kind::Build].into(),
            queues: [named(TOPIC)].into(),
            arch: "".into(),
            os: "".into(),
            labels: Default::default(),
            taints: Default::default(),
            group: None,
            resources: None,
            slots: 10_000,
            open: true,
        };
        let id = self.pullers[number].subscription.clone();
        let lease = Duration::from_secs(6);
        let subscription = Subscription { id, offer: Arc::new(offer), cost: 1.0, lease };
        self.puller_says(number, Input::Command(Command::Subscribe(subscription)));
    }

    /// The program dies: its work with it. It begins anew after a while, under the same name.
    fn puller_vanishes(&mut self, number: usize) {
        self.tell(|| format!("puller {number} vanishes"));
        if let Doing::Working { lease, .. } = self.pullers[number].doing.clone() {
            self.stop_pulled(number, &lease, None);
        }
        let down = self.random.between(200, 20_000);
        let ends_subscription = self.random.chance(100);
        let side = &mut self.pullers[number];
        (side.doing, side.down_until) = (Doing::Nothing, self.now + down);
        side.sent.clear();
        if ends_subscription {
            let subscription = side.subscription.clone();
            self.puller_says(number, Input::Command(Command::Unsubscribe { subscription }));
        }
    }

    fn begin_to_say(&mut self, number: usize, lease: LeaseId, word: LeaseWord) {
        self.puller(number).doing = Doing::Saying { lease: lease.clone(), word: word.clone() };
        self.puller_says(number, Input::Command(Command::Lease { lease, word }));
    }

    fn puller_says(&mut self, number: usize, input: Input) {
        let now = self.now;
        let side = self.puller(number);
        (side.numbers, side.said_at) = (side.numbers + 1, now);
        let said = side.numbers;
        side.sent.insert(said, now);
        let request = Request::OfPuller { puller: number, number: said, input: Box::new(input) };
        self.send_to_leaders(None, &request);
    }

    /// A request has reached a replica, which withdraws it when its wait is over, whoever still listens.
    pub(super) fn pull_ends_at(&mut self, replica: usize, request: &Request) {
        let Request::OfPuller { puller, input, .. } = request else { return };
        let Input::Pull(asked) = &**input else { return };
        let input = Box::new(Input::Withdraw { asked: asked.clone(), gone: false });
        let request = Request::OfPuller { puller: *puller, number: 0, input };
        let life = self.dispatchers[replica].life;
        self.schedule.put(self.now + WAIT, Event::RequestArrives { replica, life, from: None, request });
    }

    /// An answer is on its way to a puller.
    pub(super) fn answer_puller(&mut self, puller: usize, number: u64, answer: &Answer) {
        for delay in self.delays() {
            let event = Event::PullerHears { puller, number, answer: answer.clone() };
            self.schedule.put(self.now + delay, event);
        }
    }

    /// A puller hears the answer to what it said under `said`.
    pub(super) fn puller_hears(&mut self, number: usize, said: u64, answer: Answer) {
        let now = self.now;
        let side = &self.pullers[number];
        let Some(sent) = side.sent.get(&said).copied().filter(|_| side.down_until <= now) else { return };
        match (side.doing.clone(), answer) {
            (Doing::Nothing, Answer::Commanded(Commanded::Done)) => self.puller(number).subscribed = true,
            (Doing::Asking { .. }, Answer::Pulled(Pulled::Given(given))) => {
                self.take_pulled(number, &given, sent)
            }
            // One that was repeated is answered with nothing as well, and the last of them is still open.
            (Doing::Asking { .. }, Answer::Pulled(Pulled::Nothing)) if said == side.numbers => {
                self.puller(number).doing = Doing::Nothing;
            }
            (Doing::Asking { .. }, Answer::Pulled(Pulled::Unknown)) => {
                let side = self.puller(number);
                (side.doing, side.subscribed) = (Doing::Nothing, false);
            }
            (
                Doing::Starting { lease, runs, .. },
                Answer::Commanded(Commanded::Leased { stop: None, .. }),
            ) => {
                self.begin_pulled(number, lease, runs, sent);
            }
            // Whether its own start was taken, it cannot know: it does not begin.
            (Doing::Starting { lease, .. }, Answer::Commanded(Commanded::PullRefused { .. })) => {
                let word = LeaseWord::Nack { delay: Duration::ZERO, reason: "was it started?".into() };
                self.begin_to_say(number, lease, word);
            }
            (Doing::Working { lease, runs, ends_at, until, stop }, Answer::Commanded(said)) => match said {
                Commanded::Leased { stop: told, .. } => {
                    let (until, stop) = (until.max(sent + safely(runs)), stop || told.is_some());
                    self.puller(number).doing = Doing::Working { lease, runs, ends_at, until, stop };
                }
                Commanded::LeaseOver { .. } => {
                    self.stop_pulled(number, &lease, None);
                    self.puller(number).doing = Doing::Nothing;
                }
                _ => {}
            },
            (
                Doing::Starting { .. } | Doing::Saying { .. },
                Answer::Commanded(Commanded::LeaseOver { .. }),
            )
            | (Doing::Saying { .. }, Answer::Commanded(Commanded::Done)) => {
                self.puller(number).doing = Doing::Nothing;
            }
            _ => {}
        }
    }

    fn take_pulled(&mut self, number: usize, given: &Given, sent: u64) {
        let runs = u64::try_from(given.runs.as_millis()).expect("a short lease");
        let lease = given.lease.clone();
        if self.random.chance(50) {
            let delay = Duration::from_millis(*self.random.pick(&[0, 500, 3_000]));
            let word = LeaseWord::Nack { delay, reason: "not now".into() };
            return self.begin_to_say(number, lease, word);
        }
        let until = sent + safely(runs);
        self.puller(number).doing = Doing::Starting { lease: lease.clone(), runs, until };
        self.puller(number).sent.clear();
        self.puller_says(number, Input::Command(Command::Lease { lease, word: LeaseWord::Start }));
    }

    fn begin_pulled(&mut self, number: usize, lease: LeaseId, runs: u64, sent: u64) {
        let until = sent + safely(runs);
        if self.now >= until {
            return self.puller(number).doing = Doing::Nothing;
        }
        let endless = self.plans.get(&lease.task).is_some_and(|plan| plan.endless);
        let long = self.random.between(100, self.options.longest_work);
        let ends_at = if endless { u64::MAX } else { self.now + long };
        self.statistics.pulled += 1;
        self.checkers.pulled_began(self.now, &PullerSide::hand(number), &held(&lease));
        self.puller(number).doing = Doing::Working { lease, runs, ends_at, until, stop: false };
    }

    fn stop_pulled(&mut self, number: usize, lease: &LeaseId, how: Option<AttemptOutcome>) {
        self.checkers.work_stopped(self.now, &PullerSide::hand(number), &held(lease), how);
    }
}

/// How much of a lease a puller uses: its clock, and the dispatcher's, may be off, and it looks only now and then.
fn safely(runs: u64) -> u64 {
    runs - runs / 20 - LOOK_EVERY
}
