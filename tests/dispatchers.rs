//! The same stories told to one dispatcher, to one with its table on JetStream, and to three that share one there, over
//! HTTP alone: whoever is asked, and whoever leads, what is seen is the same.
//!
//! Each question goes to the next replica. In some stories whoever leads dies in the middle. Waits are short, and what
//! is judged is order, result and the least that was waited; never how long anything took.

mod binary;
mod broker;

mod dispatchers {
    mod groups;
    mod locality;
    mod pool;
    mod runner;
    mod whole;
}
