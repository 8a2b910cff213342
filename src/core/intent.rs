//! Intents: asking that somebody provide runners for what waits.
//!
//! Story: after planning, what is left in the lines and has no room on any runner is packed into runners that are
//! starting already, and then into new ones, the cheapest declared class first. What comes out is what is asked for.
//! A provisioner acknowledges or declines; runners that register with the intent turn what is starting into what
//! is there.
//!
//! Law: nothing is asked for twice, never more than a class's `max`, and nothing for work that something else
//! blocks: a task that a ready runner has room for waits for something other than a runner.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::backlog::Rank;
use super::demand::Packing;
use super::draft::Draft;
use super::fit;
use super::input::Commanded;
use super::shortage::{self, Demand};
use super::state::State;
use super::watch::Looked;
use super::wishes;
use crate::model::{
    Closed, DeclaredClass, Fact, Id, Intent, IntentChange, IntentId, IntentState, Key, Registration, Row,
    Shape, Task, Time, time,
};

/// What waits is looked through at most this often.
const PACE: std::time::Duration = std::time::Duration::from_secs(1);
/// A declared class while runners of it are counted.
struct Offered<'a> {
    class: &'a DeclaredClass,
    packing: Packing,
    /// New runners by the shape they are for, with the tasks that led to them.
    asked: BTreeMap<Arc<Shape>, u64>,
}

/// Asks for the runners that what waits needs now. Looks at it only when something changed, and not more often than
/// once a second.
pub(super) fn ask(draft: &mut Draft, woken: bool) {
    if draft.state.settings.classes.is_empty() && draft.state.intents.is_empty() {
        return;
    }
    let changes = woken || draft.has_changes();
    let watch = &mut draft.state.watch.demand;
    watch.changed |= changes || watch.looked.is_none();
    let too_soon = watch.looked.is_some_and(|at| draft.now < at + PACE);
    if !watch.changed || too_soon || draft.is_full() {
        return;
    }
    draft.state.watch.demand = Looked { looked: Some(draft.now), changed: false };
    let mut demands = shortage::demands(draft.state);
    let mut asked = count(draft.state, &demands);
    for wish in wishes::all(draft.state) {
        let runners = asked.entry((wish.class, wish.shape.clone())).or_default();
        *runners = wish.runners.max(*runners);
        let (tasks, named) = (wish.tasks, wish.named);
        demands.entry(wish.shape).or_insert_with(|| Demand::of(tasks, named));
    }
    write(draft, &demands, &asked);
}

impl State {
    /// When what waits is looked through again, if something changed.
    pub(super) fn next_ask(&self) -> Option<Time> {
        let demand = &self.watch.demand;
        demand.looked.filter(|_| demand.changed).map(|at| at + PACE)
    }
}

/// New runners to ask for, by class and shape.
fn count(state: &State, demands: &BTreeMap<Arc<Shape>, Demand>) -> BTreeMap<(Id, Arc<Shape>), u64> {
    let mut order: Vec<(Option<Rank>, Arc<Shape>)> =
        demands.iter().map(|(shape, demand)| (demand.first, shape.clone())).collect();
    order.sort();
    let mut waiting: Vec<(Arc<Shape>, u64)> =
        order.into_iter().map(|(_, shape)| (shape.clone(), demands[&shape].tasks)).collect();
    let mut offered: Vec<Offered<'_>> =
        cheapest_first(state).into_iter().map(|class| offer(state, class)).collect();
    for each in &mut offered {
        for (shape, tasks) in waiting.iter_mut().filter(|(shape, _)| demands[shape].fits(&each.class.offer)) {
            *tasks -= each.packing.fill(shape, *tasks);
        }
    }
    // Whom nobody answered for is asked for again only where no other class would do.
    for again in [false, true] {
        for each in &mut offered {
            for (shape, tasks) in waiting.iter_mut().filter(|(_, tasks)| *tasks > 0) {
                let closed =
                    state.intents().of(&each.class.id, shape).and_then(|intent| intent.closed.as_ref());
                if closed.is_some_and(|closed| closed.declined || !again)
                    || !demands[shape].fits(&each.class.offer)
                {
                    continue;
                }
                let packed = each.packing.take(shape, *tasks);
                *tasks -= packed.tasks;
                if packed.runners > 0 {
                    *each.asked.entry(shape.clone()).or_default() += packed.runners;
                }
            }
        }
    }
    let of_class = |each: Offered<'_>| {
        let id = each.class.id.clone();
        each.asked.into_iter().map(move |(shape, runners)| ((id.clone(), shape), runners))
    };
    offered.into_iter().flat_map(of_class).collect()
}

fn cheapest_first(state: &State) -> Vec<&DeclaredClass> {
    let mut classes: Vec<&DeclaredClass> = state.settings.classes.iter().collect();
    classes.sort_by(|a, b| a.cost.total_cmp(&b.cost));
    classes
}

fn offer<'a>(state: &State, class: &'a DeclaredClass) -> Offered<'a> {
    let intents = state.intents();
    let counted = state.settings.guards.starting_counts;
    let starting = if counted { u64::from(intents.starting(&class.id)) } else { 0 };
    let left = u64::from(class.max).saturating_sub(u64::from(intents.members(&class.id)) + starting);
    Offered { class, packing: Packing::new(class.offer.clone(), starting, left), asked: BTreeMap::new() }
}

/// Makes the rows say what is asked for now.
fn write(draft: &mut Draft, demands: &BTreeMap<Arc<Shape>, Demand>, asked: &BTreeMap<(Id, Arc<Shape>), u64>) {
    let none = |intent: &&Arc<Intent>| !asked.contains_key(&(intent.class.clone(), intent.shape.clone()));
    let over: Vec<Arc<Intent>> = draft.state.intents().iter().filter(none).cloned().collect();
    for intent in over {
        if draft.is_full() {
            return again(draft);
        }
        if intent.asked > 0 {
            let mut less = Intent::clone(&intent);
            (less.asked, less.answer_by) = (0, None);
            say(draft, &intent, IntentChange::Withdrawn, intent.asked, None);
            keep(draft, less);
        }
    }
    for (number, ((class, shape), runners)) in asked.iter().enumerate() {
        if draft.is_full() {
            return again(draft);
        }
        let runners = u32::try_from(*runners).unwrap_or(u32::MAX);
        let known = draft.state.intents().of(class, shape).cloned();
        let open = known.as_ref().filter(|intent| intent.closed.is_none());
        if open.is_some_and(|intent| intent.asked == runners) {
            continue;
        }
        let demand = &demands[shape];
        let mut intent = match open {
            Some(intent) => Intent::clone(intent),
            None => {
                if let Some(expired) = &known {
                    draft.delete(Key::Intent(expired.id.clone()));
                }
                fresh(draft, number, class, shape)
            }
        };
        if intent.asked == 0 {
            intent.answer_by = Some(draft.now + draft.state.settings.intent_answer);
        }
        intent.asked = runners;
        intent.reason = demand.reason(shape).into();
        (intent.tasks, intent.waiting) = (demand.named.clone(), demand.tasks);
        say(draft, &intent, IntentChange::Asked, runners, Some(intent.reason.clone()));
        keep(draft, intent);
    }
}

/// The rest in the next turn.
fn again(draft: &mut Draft) {
    (draft.state.watch.demand.looked, draft.state.watch.demand.changed) = (None, true);
    draft.more();
}

fn fresh(draft: &Draft, number: usize, class: &Id, shape: &Arc<Shape>) -> Intent {
    let id = format!("intent-{}-{}-{number}", draft.state.epoch(), draft.state.turn());
    Intent {
        id: Id::parse(&id).expect("a legal name"),
        class: class.clone(),
        shape: shape.clone(),
        asked: 0,
        starting: 0,
        arrived: 0,
        reason: "".into(),
        tasks: Vec::new(),
        waiting: 0,
        made: draft.now,
        answer_by: None,
        start_by: None,
        closed: None,
        extra: Default::default(),
    }
}

/// Puts an intent's row, or takes it out when nothing is left of it.
fn keep(draft: &mut Draft, intent: Intent) {
    if intent.closed.is_none() && intent.count() == 0 {
        return draft.delete(Key::Intent(intent.id));
    }
    draft.put(Row::Intent(Arc::new(intent)));
}

fn say(draft: &mut Draft, intent: &Intent, change: IntentChange, runners: u32, reason: Option<Arc<str>>) {
    let (intent, class) = (intent.id.clone(), intent.class.clone());
    draft.fact(Fact::Intent { intent, class, change, runners, reason });
}

/// Somebody starts `count` runners, or all that are asked for.
pub(super) fn acknowledge(draft: &mut Draft, id: &IntentId, count: Option<u32>) -> Commanded {
    let Some(known) = draft.state.intents().get(id).cloned() else { return Commanded::UnknownIntent };
    let count = count.unwrap_or(known.asked);
    let refused = match known.state() {
        IntentState::Asked if (1..=known.asked).contains(&count) => None,
        IntentState::Asked => Some(format!(
            "intent {id} asks for {} runners now, not for {count}; acknowledge at most those",
            known.asked
        )),
        IntentState::Acknowledged => Some(format!(
            "intent {id} is acknowledged already: {} runners are starting; start none",
            known.starting
        )),
        IntentState::Declined | IntentState::Expired => Some(closed_already(&known)),
    };
    if let Some(reason) = refused {
        return Commanded::IntentRefused { reason: reason.into() };
    }
    let mut intent = Intent::clone(&known);
    intent.asked -= count;
    intent.starting += count;
    intent.start_by = Some(draft.now + draft.state.settings.intent_start);
    if intent.asked == 0 {
        intent.answer_by = None;
    }
    say(draft, &intent, IntentChange::Acknowledged, count, None);
    keep(draft, intent);
    Commanded::Done
}

/// Nobody will start what is asked for, nor what is starting and has not come.
pub(super) fn decline(draft: &mut Draft, id: &IntentId, reason: &Arc<str>) -> Commanded {
    let Some(known) = draft.state.intents().get(id).cloned() else { return Commanded::UnknownIntent };
    if known.closed.is_some() {
        return Commanded::IntentRefused { reason: closed_already(&known).into() };
    }
    say(draft, &known, IntentChange::Declined, known.count(), Some(reason.clone()));
    close(draft, &known, reason.clone(), true);
    Commanded::Done
}

fn closed_already(intent: &Intent) -> String {
    let word = intent.state().as_str();
    let why = intent.closed.as_ref().map_or("", |closed| &*closed.reason);
    format!("intent {} is {word} already ({why}); wait for a new one", intent.id)
}

fn close(draft: &mut Draft, intent: &Intent, reason: Arc<str>, declined: bool) {
    let until = draft.now + draft.state.settings.intent_backoff;
    let mut closed = intent.clone();
    (closed.asked, closed.starting) = (0, 0);
    (closed.answer_by, closed.start_by) = (None, None);
    closed.closed = Some(Closed { reason, declined, until });
    keep(draft, closed);
}

/// Ends what nobody answered in time, and what was acknowledged and never came.
pub(super) fn expire(draft: &mut Draft) {
    while let Some((at, id)) = draft.state.intents().first_due().cloned() {
        if at > draft.now {
            return;
        }
        if draft.is_full() {
            return draft.more();
        }
        let known = draft.state.intents().get(&id).expect("what is due is there").clone();
        if known.closed.is_some() {
            draft.delete(Key::Intent(id));
            continue;
        }
        let mut left = Intent::clone(&known);
        let (reason, runners) = if known.start_by.is_some_and(|by| by <= draft.now) {
            (left.starting, left.start_by) = (0, None);
            let within = time::format_span(draft.state.settings.intent_start);
            (format!("{} runners did not register within {within}", known.starting), known.starting)
        } else {
            (left.asked, left.answer_by) = (0, None);
            let within = time::format_span(draft.state.settings.intent_answer);
            (format!("nobody acknowledged it within {within}"), known.asked)
        };
        let reason: Arc<str> = reason.into();
        say(draft, &known, IntentChange::Expired, runners, Some(reason.clone()));
        if left.count() == 0 {
            close(draft, &left, reason, false);
        } else {
            keep(draft, left);
        }
    }
}

/// A runner registered with an intent: what was coming is here.
pub(super) fn arrived(draft: &mut Draft, id: &IntentId) {
    let Some(known) = draft.state.intents().get(id).cloned() else { return };
    let mut intent = Intent::clone(&known);
    intent.arrived += 1;
    if intent.starting > 0 {
        intent.starting -= 1;
    } else {
        intent.asked = intent.asked.saturating_sub(1);
    }
    if intent.starting == 0 {
        intent.start_by = None;
    }
    if intent.asked == 0 {
        intent.answer_by = None;
    }
    say(draft, &intent, IntentChange::Arrived, 1, None);
    keep(draft, intent);
}

/// What a registration says of its class that the declaration contradicts, with the remedy.
pub(super) fn contradiction(state: &State, new: &Registration) -> Option<String> {
    if let Some(intent) = new.intent.as_ref().and_then(|id| state.intents().get(id))
        && new.class.as_ref() != Some(&intent.class)
    {
        let says = new.class.as_ref().map_or("none", |class| class.as_str());
        return Some(format!(
            "class ({says:?}): intent {} asks for class {:?}; register with that class, or without the intent",
            intent.id,
            intent.class.as_str()
        ));
    }
    let claimed = new.class.as_ref()?;
    let class = state.settings.classes.iter().find(|class| class.id == *claimed)?;
    let why = fit::less(&new.offer, &class.offer)?;
    Some(format!(
        "{why}: class {:?} is declared with more; offer at least that, leave the class out, or change its [[class]]",
        claimed.as_str()
    ))
}

/// What is asked for a task, or for others of its shape, in sentences.
pub fn reasons(state: &State, task: &Task) -> Vec<String> {
    let shape = &*task.shape;
    let behind = |intent: &&Arc<Intent>| *intent.shape == *shape || intent.tasks.contains(&task.id);
    let behind_it = state.intents().iter().filter(behind);
    let say = |intent: &Arc<Intent>| {
        let (class, made) = (&intent.class, intent.made);
        let runners =
            |count: u32| if count == 1 { "1 runner".to_owned() } else { format!("{count} runners") };
        let said = match (&intent.closed, intent.asked, intent.starting) {
            (Some(closed), ..) if closed.declined => {
                format!("a runner of class {class} was declined until {}: {}", closed.until, closed.reason)
            }
            (Some(closed), ..) => format!("no runner of class {class} came: {}", closed.reason),
            (None, 0, starting) => format!("{} of class {class} starting since {made}", runners(starting)),
            (None, asked, 0) => {
                format!("an intent asks for {} of class {class} since {made}", runners(asked))
            }
            (None, asked, starting) => format!(
                "an intent asks for {} of class {class} since {made}; {starting} more are starting",
                runners(asked)
            ),
        };
        format!("{said} ({})", intent.id)
    };
    let full =
        state.settings.classes.iter().filter(|class| {
            fit::never(shape, &class.offer).is_none() && offer(state, class).packing.left() == 0
        });
    let say_full = |class: &DeclaredClass| match class.max {
        0 => format!("class {} has max 0: none of it is ever asked for", class.id),
        max => {
            format!("class {} may have no more: of at most {max} runners all are here or starting", class.id)
        }
    };
    behind_it.map(say).chain(full.map(say_full)).collect()
}
