//! Numbers for names: what is known under a name, found by a small number while it is known.
//!
//! Law: a number says nothing of the order of names, and may stand for another name once its own is gone; so nothing
//! is decided by it, and two states with the same rows may have different ones.

use std::borrow::Borrow;
use std::hash::Hash;

use rustc_hash::FxHashMap;

/// The number of a name while something is known under it.
pub(super) type Number = u32;

/// What is known under names.
#[derive(Debug, Clone)]
pub(super) struct Numbered<K, V> {
    numbers: FxHashMap<K, Number>,
    slots: Vec<Option<(K, V)>>,
    free: Vec<Number>,
}

impl<K, V> Default for Numbered<K, V> {
    fn default() -> Self {
        Self { numbers: FxHashMap::default(), slots: Vec::new(), free: Vec::new() }
    }
}

impl<K: Clone + Eq + Hash, V> Numbered<K, V> {
    /// How many names are known.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// The number of a known name.
    pub fn find<Q: Eq + Hash + ?Sized>(&self, name: &Q) -> Option<Number>
    where
        K: Borrow<Q>,
    {
        self.numbers.get(name).copied()
    }

    /// The number of a name, which is known from now on.
    pub fn number(&mut self, name: &K, new: impl FnOnce() -> V) -> Number {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let known = Some((name.clone(), new()));
        let number = match self.free.pop() {
            Some(number) => {
                self.slots[number as usize] = known;
                number
            }
            None => {
                self.slots.push(known);
                Number::try_from(self.slots.len() - 1).expect("fewer than four billion names")
            }
        };
        self.numbers.insert(name.clone(), number);
        number
    }

    /// Forgets a number and its name.
    pub fn remove(&mut self, number: Number) -> Option<V> {
        let (name, known) = self.slots[number as usize].take()?;
        self.numbers.remove(&name);
        self.free.push(number);
        Some(known)
    }

    /// Forgets a number if what is known under it is not to be kept.
    pub fn keep_if(&mut self, number: Number, keep: impl FnOnce(&V) -> bool) {
        if self.slots[number as usize].as_ref().is_some_and(|(_, known)| !keep(known)) {
            self.remove(number);
        }
    }

    /// The name of a number.
    pub fn name(&self, number: Number) -> &K {
        &self.slots[number as usize].as_ref().expect("a number stands for a name").0
    }

    /// What is known under a number.
    pub fn get(&self, number: Number) -> &V {
        &self.slots[number as usize].as_ref().expect("a number stands for a name").1
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, number: Number) -> &mut V {
        &mut self.slots[number as usize].as_mut().expect("a number stands for a name").1
    }

    /// What is known under a name.
    pub fn of<Q: Eq + Hash + ?Sized>(&self, name: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.find(name).map(|number| self.get(number))
    }

    /// All names with their numbers and what is known, by number.
    pub fn iter(&self) -> impl Iterator<Item = (Number, &K, &V)> {
        let known = self.slots.iter().zip(0..).filter_map(|(slot, number)| Some((number, slot.as_ref()?)));
        known.map(|(number, (name, known))| (number, name, known))
    }
}
