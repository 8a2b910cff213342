//! What needs a control group (v2) to divide. `make test` runs it where one is named or a kernel that has them can be
//! started, and leaves it out, and says so, elsewhere.

#[path = "limits/control_groups.rs"]
mod control_groups;
