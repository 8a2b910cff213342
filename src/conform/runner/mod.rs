//! The cases for runners, by what they are about: work, the lease, how things end, and words of other versions.

pub mod ends;
pub mod lease;
pub mod words;
pub mod work;
