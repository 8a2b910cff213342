//! What the dispatcher decides, told as stories on the pure core: no IO, no waiting, a hand-moved clock.

mod behaviour {
    mod admission;
    mod blame;
    mod builds;
    mod commands;
    mod explain;
    mod intents;
    mod leases;
    mod lifecycle;
    mod placement;
    mod transcripts;
    mod verdicts;
    mod wakeups;
    mod words;
    pub mod world;
}
