//! What the dispatcher decides, told as stories on the pure core: no IO, no waiting, a hand-moved clock.

mod behaviour {
    mod admission;
    mod blame;
    mod builds;
    mod builds_in_trouble;
    mod commands;
    mod explain;
    mod forests;
    mod group_laws;
    mod groups;
    mod intents;
    mod ladder;
    mod leases;
    mod lifecycle;
    mod locality;
    mod placement;
    mod pull;
    mod pull_groups;
    mod pullers;
    mod reservations;
    mod sizes;
    mod transcripts;
    mod trees;
    mod verdict_laws;
    mod verdicts;
    mod verdicts_under_change;
    mod wakeups;
    mod words;
    pub mod world;
}
