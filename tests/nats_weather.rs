//! Bad weather: real brokers, dispatchers and runners that are killed, paused, cut off and filled up while work is
//! in flight.
//!
//! Law: what is judged is what producers were told, what the work itself wrote, and what the stream of history
//! says to whoever reads it; never the rows of the dispatchers, which only have to be equal on all of them.

mod binary;
mod broker;
#[path = "scripted/wire.rs"]
mod wire;

mod nats_weather {
    mod brokers;
    mod gone;
    mod judge;
    mod leaders;
    mod listeners;
    mod operator;
    mod pool;
    mod producer;
    mod puppet;
    mod room;
    mod runners;
    mod sieve;
    mod steps;
    mod traces;
    mod words;
}
