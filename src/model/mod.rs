//! The nouns of Longshore: plain data that every layer shares.
//!
//! Nothing here decides, waits or talks to anything. The rows derive their serialised form, which is the
//! readable form of the table (ADR 0002); the payloads other programs send are shaped in `wire`.

pub mod artifact;
pub mod fact;
pub mod group;
pub mod id;
pub mod intent;
pub mod message;
pub mod output;
pub mod pull;
pub mod reservation;
pub mod resources;
pub mod row;
pub mod runner;
pub mod shape;
pub mod size;
pub mod task;
pub mod text;
pub mod time;
pub mod token;
pub mod trace;
pub mod turn;
pub mod work;

pub use artifact::{ArtifactId, ArtifactIdError, ArtifactNews, Artifacts, Holding, Wait};
pub use fact::{Fact, Found, Lifecycle, LifecycleState};
pub use group::{Group, Grouping, Stopped, Terms};
pub use id::{BuildId, ClassId, GroupId, Id, IdError, IntentId, QueueId, RunnerId, TaskId, TenantId};
pub use intent::{Closed, DeclaredClass, Intent, IntentChange, IntentState};
pub use message::{
    AssignmentMessage, AttemptOutcome, Delivery, End, Heartbeat, HeartbeatAnswer, Held, LastSeen, Leave,
    Registered, Registration, Report, Reported, StopOrder,
};
pub use output::OutputPiece;
pub use pull::{Binding, Given, LEASE, LeaseId, LeaseWord, Pull, PullRequest, Pulled, Puller, Subscription};
pub use reservation::Reservation;
pub use resources::Resources;
pub use row::{Class, EarlyCancel, Key, Pool, Queue, Row};
pub use runner::{Crash, Runner, RunnerState, Standing};
pub use shape::{Kind, Offer, Shape};
pub use task::{
    Assignment, Ending, IfUnplaceable, Limits, NewTask, Outcome, Stop, StopCause, Task, TaskState,
};
pub use time::Time;
pub use token::Token;
pub use trace::Traceparent;
pub use turn::{Change, Head, TurnId, TurnRecord};
pub use work::WorkOrder;
