//! The intents there are, by what they ask for and by when they are due; and how many runners each class has.
//!
//! Law: derived from the rows of intents and runners alone, through `State::put`. At most one intent for each class
//! and shape is found under them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use crate::model::{ClassId, Intent, IntentId, Runner, Shape, Time};

/// All intents.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Intents {
    rows: BTreeMap<IntentId, Arc<Intent>>,
    places: BTreeMap<(ClassId, Arc<Shape>), IntentId>,
    due: BTreeSet<(Time, IntentId)>,
    /// Runners of each class that are not lost; what is 0 is left out.
    members: BTreeMap<ClassId, u32>,
}

impl Intents {
    pub(super) fn put(&mut self, intent: Arc<Intent>) {
        self.remove(&intent.id);
        self.places.insert((intent.class.clone(), intent.shape.clone()), intent.id.clone());
        self.due.extend(intent.due().map(|at| (at, intent.id.clone())));
        self.rows.insert(intent.id.clone(), intent);
    }

    pub(super) fn remove(&mut self, id: &IntentId) {
        let Some(old) = self.rows.remove(id) else { return };
        let place = (old.class.clone(), old.shape.clone());
        if self.places.get(&place) == Some(id) {
            self.places.remove(&place);
        }
        if let Some(at) = old.due() {
            self.due.remove(&(at, id.clone()));
        }
    }

    /// Counts a runner that came, went or changed.
    pub(super) fn runner_changed(&mut self, old: Option<&Runner>, new: Option<&Runner>) {
        let class = |runner: Option<&Runner>| runner.filter(|runner| runner.lost.is_none())?.class.clone();
        if let Some(class) = class(new) {
            *self.members.entry(class).or_default() += 1;
        }
        if let Some(class) = class(old) {
            let members = self.members.get_mut(&class).expect("it was counted when it came");
            *members -= 1;
            if *members == 0 {
                self.members.remove(&class);
            }
        }
    }

    /// The intent called `id`.
    pub fn get(&self, id: &IntentId) -> Option<&Arc<Intent>> {
        self.rows.get(id)
    }

    /// The intent that asks for runners of `class` for tasks of `shape`.
    pub fn of(&self, class: &ClassId, shape: &Arc<Shape>) -> Option<&Arc<Intent>> {
        self.rows.get(self.places.get(&(class.clone(), shape.clone()))?)
    }

    /// All of them in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Intent>> {
        self.rows.values()
    }

    /// Those after `after` in the order of their ids; all of them after nothing.
    pub fn after(&self, after: Option<&IntentId>) -> impl Iterator<Item = &Arc<Intent>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.rows.range::<IntentId, _>((from, Bound::Unbounded)).map(|(_, intent)| intent)
    }

    /// Every rule that does not hold, in words.
    pub(super) fn check(&self) -> Vec<String> {
        let mut broken = Vec::new();
        if self.places.len() != self.rows.len() {
            broken.push(format!("{} intents stand for {} places", self.rows.len(), self.places.len()));
        }
        for intent in self.rows.values() {
            let due = (intent.answer_by.is_some(), intent.start_by.is_some());
            let is_open = intent.closed.is_none();
            if due != (intent.asked > 0, intent.starting > 0) || is_open != (intent.count() > 0) {
                broken.push(format!("{} stands as nothing leaves it: {intent:?}", intent.id));
            }
        }
        broken
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The first that time alone changes, and when.
    pub fn first_due(&self) -> Option<&(Time, IntentId)> {
        self.due.first()
    }

    /// How many runners of a class there are that are not lost.
    pub fn members(&self, class: &ClassId) -> u32 {
        self.members.get(class).copied().unwrap_or(0)
    }

    /// How many runners of a class were acknowledged and have not registered yet.
    pub fn starting(&self, class: &ClassId) -> u32 {
        let of_class = self.rows.values().filter(|intent| intent.class == *class);
        of_class.map(|intent| intent.starting).sum()
    }
}
