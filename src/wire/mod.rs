//! Bytes: how the nouns are written for a table and for other programs, and how they are read back.
//!
//! Law: what this version writes it reads back equal, and what a newer version wrote is either kept unharmed or
//! refused with its format's number; it is never half understood. Rests on `model` alone.

pub mod turn;
