//! Words for stories of pulling: subscribe, ask, be given, say something of a lease.

use std::sync::Arc;
use std::time::Duration;

use longshore::core::input::{Answer, Command, Commanded, Input, Ticket};
use longshore::model::*;
use uuid::Uuid;

use super::world::*;

pub const LEASE: Duration = Duration::from_secs(60);

/// A subscription without limits.
pub fn subscription(name: &str, topic: &str) -> Subscription {
    let offer = Offer {
        kinds: [Kind::Job, Kind::Build].into(),
        queues: [id(topic)].into(),
        arch: "".into(),
        os: "".into(),
        labels: Default::default(),
        taints: Default::default(),
        group: None,
        resources: None,
        slots: 10_000,
        open: true,
    };
    Subscription { id: id(name), offer: Arc::new(offer), cost: 1.0, lease: LEASE }
}

/// A request on its way to an answer.
pub struct Asked {
    pub request: PullRequest,
    pub ticket: Ticket,
}

impl World {
    pub fn subscribe(&mut self, name: &str, topic: &str) {
        assert_eq!(self.command(Command::Subscribe(subscription(name, topic))), Commanded::Done);
    }

    pub fn unsubscribe(&mut self, name: &str) -> Commanded {
        self.command(Command::Unsubscribe { subscription: id(name) })
    }

    pub fn request(&mut self, name: &str, puller: Option<&str>, patient: bool) -> PullRequest {
        let request = Uuid::from_u128(u128::from(self.tickets()) + 1_000);
        PullRequest { runner: id(name), group: None, puller: puller.map(id), request, patient }
    }

    /// A request goes in; the turn that takes it is still to come.
    pub fn ask(&mut self, request: PullRequest) -> Asked {
        let ticket = self.push(Input::Pull(request.clone()));
        Asked { request, ticket }
    }

    /// A request that waits.
    pub fn wait_on(&mut self, name: &str) -> Asked {
        let request = self.request(name, None, true);
        let asked = self.ask(request);
        self.settle();
        asked
    }

    pub fn pulled(&mut self, asked: &Asked) -> Option<Pulled> {
        match self.answered(asked.ticket)? {
            Answer::Pulled(pulled) => Some(pulled),
            other => panic!("a pull was answered {other:?}"),
        }
    }

    /// The lease a request was given.
    pub fn given(&mut self, asked: &Asked) -> LeaseId {
        match self.pulled(asked) {
            Some(Pulled::Given(given)) => given.lease,
            other => panic!("a pull was answered {other:?}"),
        }
    }

    /// Asks without waiting: the task that is given, if any.
    pub fn pull_as(&mut self, name: &str, puller: Option<&str>) -> Option<LeaseId> {
        let request = self.request(name, puller, false);
        match self.tell(Input::Pull(request)) {
            Answer::Pulled(Pulled::Given(given)) => Some(given.lease),
            Answer::Pulled(Pulled::Nothing) => None,
            other => panic!("a pull was answered {other:?}"),
        }
    }

    pub fn pull(&mut self, name: &str) -> LeaseId {
        self.pull_as(name, None).expect("a task")
    }

    pub fn withdraw(&mut self, asked: &Asked, gone: bool) {
        self.tell(Input::Withdraw { asked: asked.request.clone(), gone });
    }

    pub fn say(&mut self, lease: &LeaseId, word: LeaseWord) -> Commanded {
        self.command(Command::Lease { lease: lease.clone(), word })
    }

    pub fn begin(&mut self, lease: &LeaseId) {
        let said = self.say(lease, LeaseWord::Start);
        assert!(matches!(said, Commanded::Leased { stop: None, .. }), "{said:?}");
    }

    pub fn finish(&mut self, lease: &LeaseId, outcome: AttemptOutcome) -> Commanded {
        self.say(lease, LeaseWord::Ack { outcome, exit_code: None, message: None })
    }

    pub fn nack(&mut self, lease: &LeaseId, delay: Duration) -> Commanded {
        self.say(lease, LeaseWord::Nack { delay, reason: "not now".into() })
    }

    /// Why a lease is over.
    pub fn is_over(&mut self, lease: &LeaseId, word: LeaseWord) -> String {
        match self.say(lease, word) {
            Commanded::LeaseOver { reason } => reason.to_string(),
            other => panic!("answered {other:?}"),
        }
    }
}
