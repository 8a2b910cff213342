//! The same stories told to one dispatcher and to three that share a table on JetStream, over HTTP alone: whoever is
//! asked, and whoever leads, what is seen is the same.
//!
//! Each question goes to the next replica. Where it says so, whoever leads dies in the middle. Waits are short, and what
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
