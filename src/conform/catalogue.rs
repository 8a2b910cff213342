//! The cases there are: a name, the rule in one line, where it stands, and the story that tries it.

use std::fmt;

use futures_util::future::BoxFuture;

use super::scene::Scene;
use super::{Told, puller, runner};

/// A rule, and how it is tried.
pub struct Case {
    /// One word of its own among the cases of its role.
    pub name: &'static str,
    pub role: Role,
    /// What the program must do.
    pub rule: &'static str,
    /// Where the rule stands.
    pub stands_in: &'static str,
    pub(super) story: fn(&mut Scene) -> BoxFuture<'_, Told>,
}

/// What a program is to the dispatcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It registers and is sent work.
    Runner,
    /// It subscribes to a queue and asks for tasks one by one.
    Puller,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").field("name", &self.name).field("role", &self.role).finish_non_exhaustive()
    }
}

/// The cases for a role, in the order they are shown.
pub fn cases(role: Role) -> &'static [Case] {
    match role {
        Role::Runner => RUNNER,
        Role::Puller => PULLER,
    }
}

/// A row of the table below.
macro_rules! case {
    ($role:ident, $name:literal, $story:path, $stands_in:expr, $rule:literal) => {
        Case {
            name: $name,
            role: Role::$role,
            rule: $rule,
            stands_in: $stands_in,
            story: |scene| Box::pin($story(scene)),
        }
    };
}

const LIFE: &str = "docs/runners.md, the life of a lease";
const HOLDS: &str = "docs/runners.md, what must hold";
const PROTOCOL: &str = "docs/protocol.md";
const PULLING: &str = "examples/README.md, pulling";

const RUNNER: &[Case] = &[
    case!(
        Runner,
        "work",
        runner::work::work,
        LIFE,
        "reports start and end under the token, with an honest outcome"
    ),
    case!(Runner, "doubled", runner::work::doubled, HOLDS, "an assignment that comes again is started once"),
    case!(
        Runner,
        "over",
        runner::work::over,
        HOLDS,
        "what has ended under a token is not started under it again"
    ),
    case!(Runner, "stale", runner::work::stale, HOLDS, "a token older than the registration is not started"),
    case!(
        Runner,
        "again",
        runner::work::again,
        HOLDS,
        "a later attempt has a greater token and runs on its own"
    ),
    case!(Runner, "slots", runner::work::slots, LIFE, "runs as much at once as it has slots, and never more"),
    case!(
        Runner,
        "lease",
        runner::lease::lease,
        HOLDS,
        "without answers its work ends before the lease does"
    ),
    case!(
        Runner,
        "register",
        runner::lease::register,
        LIFE,
        "asked to, it registers again and its work goes on"
    ),
    case!(
        Runner,
        "late-result",
        runner::lease::late_result,
        LIFE,
        "an end is reported until taken, and listed until then"
    ),
    case!(
        Runner,
        "slow-start",
        runner::lease::slow_start,
        LIFE,
        "a dispatcher that is not there yet is tried again"
    ),
    case!(Runner, "stop", runner::ends::stop, LIFE, "a stop is TERM to the work, and reported as cancelled"),
    case!(
        Runner,
        "stubborn",
        runner::ends::stubborn,
        HOLDS,
        "work that ignores TERM is ended, children too, in the grace"
    ),
    case!(
        Runner,
        "unknown-stop",
        runner::ends::unknown_stop,
        HOLDS,
        "a stop for what is not there is answered by handback"
    ),
    case!(Runner, "leave", runner::ends::leave, LIFE, "TERM: ends or hands back its work, leaves, and exits"),
    case!(
        Runner,
        "killed",
        runner::ends::killed,
        HOLDS,
        "work of a killed runner ends before its lease does"
    ),
    case!(
        Runner,
        "restart",
        runner::ends::restart,
        LIFE,
        "comes back as a new incarnation; what it does not list is dead"
    ),
    case!(
        Runner,
        "unknown-fields",
        runner::words::unknown_fields,
        PROTOCOL,
        "fields it does not know are ignored"
    ),
    case!(
        Runner,
        "version",
        runner::words::version,
        PROTOCOL,
        "payloads of a version it does not know are not acted on"
    ),
    case!(
        Runner,
        "refused",
        runner::words::refused,
        PROTOCOL,
        "refused for its protocol, it ends and says why"
    ),
];

const PULLER: &[Case] = &[
    case!(Puller, "work", puller::work::work, PULLING, "pulls, starts, and says how it ended"),
    case!(
        Puller,
        "empty",
        puller::work::empty,
        PULLING,
        "given nothing, it waits as long as Retry-After says"
    ),
    case!(
        Puller,
        "refused-start",
        puller::work::refused_start,
        PULLING,
        "work begins only when its start was taken"
    ),
    case!(Puller, "long", puller::work::long, PULLING, "extends the lease of work that takes longer"),
    case!(Puller, "late-end", puller::work::late_end, PULLING, "an end that comes too late is let go"),
    case!(
        Puller,
        "forgotten",
        puller::work::forgotten,
        PULLING,
        "subscribes again where its subscription is unknown"
    ),
    case!(
        Puller,
        "lease",
        puller::ends::lease,
        PULLING,
        "without answers its work ends before the lease does"
    ),
    case!(Puller, "taken-away", puller::ends::taken_away, PULLING, "work whose lease is over is stopped"),
    case!(
        Puller,
        "stop",
        puller::ends::stop,
        PULLING,
        "work that is to be stopped is stopped, and its end said"
    ),
    case!(
        Puller,
        "leave",
        puller::ends::leave,
        PULLING,
        "TERM: ends its work, gives the task back, and exits"
    ),
    case!(
        Puller,
        "killed",
        puller::ends::killed,
        PULLING,
        "work of a killed puller ends before its lease does"
    ),
    case!(
        Puller,
        "restart",
        puller::ends::restart,
        PULLING,
        "under its name it gets what it had not started again"
    ),
    case!(
        Puller,
        "slow-start",
        puller::work::slow_start,
        PULLING,
        "a dispatcher that is not there yet is tried again"
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_case_of_a_role_has_a_name_of_its_own() {
        for role in [Role::Runner, Role::Puller] {
            let names: BTreeSet<_> = cases(role).iter().map(|case| case.name).collect();
            assert_eq!(names.len(), cases(role).len());
            assert!(cases(role).iter().all(|case| case.role == role));
        }
    }
}
