//! What a pending task takes in memory besides its body.
//!
//! Law: held as a server holds it. The leader's state is filled by turns that admit submissions; the readers'
//! state begins as its copy, as when a server starts, and from then on each committed turn is applied to it. So
//! the two share what they share in a server, and nothing else.

use std::sync::Arc;

use uuid::Uuid;

use super::worlds;
use crate::core::Settings;
use crate::core::input::{Arrived, Input, Ticket};
use crate::model::{Head, Time};
use crate::ports::{Budget, Commit, Load};
use crate::runtime::{Replica, Settled, View};

/// How many tasks are pending when memory is looked at.
const FEW: usize = 100_000;
const MANY: usize = 1_000_000;
/// How many tasks a turn admits, and how long their bodies are.
const PACK: usize = 1_000;
const BODY: usize = 256;
/// Room for a pack: two rows a task, and what a turn keeps back.
const BUDGET: Budget = Budget { rows: 4 * PACK, bytes: 8 << 20 };

/// Bytes a pending task takes besides its body: with how many pending, and in which states. `None` where the kernel
/// does not say. Nothing may have been held before.
pub(super) fn measure() -> Option<[(usize, &'static str, f64); 3]> {
    let before = worlds::resident("self")?;
    let each = |tasks: usize| {
        let held = worlds::resident("self")?.saturating_sub(before).saturating_sub((tasks * BODY) as u64);
        Some((held as f64 / tasks as f64).round())
    };
    let settings = Settings { window: usize::MAX, window_bytes: usize::MAX, ..Settings::default() };
    let load = Load { table: Uuid::nil(), head: Head::empty(), rows: Vec::new() };
    let mut leader = Replica::new(Uuid::nil(), Arc::new(settings), load);
    leader.lead(Time(0));
    (0..FEW).step_by(PACK).for_each(|from| admit(&mut leader, None, from));
    let one = each(FEW)?;
    let readers = View::new(leader.state().clone());
    let few = each(FEW)?;
    (FEW..MANY).step_by(PACK).for_each(|from| admit(&mut leader, Some(&readers), from));
    let many = each(MANY)?;
    assert_eq!(readers.read(|state| state.backlog().len()), MANY, "all of them wait, and readers see it");
    Some([(FEW, "one state", one), (FEW, "both states", few), (MANY, "both states", many)])
}

/// Takes the turn that admits the next pack.
fn admit(leader: &mut Replica, readers: Option<&View>, from: usize) {
    for number in from..from + PACK {
        let input =
            Input::Submit { task: Arc::new(worlds::submission(number, BODY)), sequence: number as u64 };
        leader.push(Arrived { ticket: Ticket(number as u64), input });
    }
    leader.decide(Time(0), BUDGET).expect("inputs wait");
    let Settled::Committed { record, .. } = leader.settle(Commit::Done) else {
        unreachable!("it was told that the turn stands there")
    };
    if let Some(readers) = readers {
        readers.apply(&record);
    }
}
