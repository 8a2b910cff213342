//! The bytes: what other programs and the table send and get, and the model it means.
//!
//! Reading is lenient to unknown fields and strict on types; what cannot be read is [`Malformed`], which names
//! the field. Nothing here decides anything, and nothing else shapes a payload. A turn that a newer version
//! wrote is refused with its format's number, never half understood.

pub mod answer;
pub mod command;
pub mod digest;
pub mod event;
pub mod fields;
pub mod group;
pub mod json;
pub mod malformed;
pub mod message;
pub mod output;
pub mod pull;
pub mod refusal;
pub mod registration;
pub mod snapshot;
pub mod subject;
pub mod submission;
pub mod turn;
pub mod work;

pub use malformed::Malformed;
