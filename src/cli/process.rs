//! How the back end `process` limits what attempts take.
//!
//! Law: limits that were demanded are applied or the runner does not start; others are applied where they can be, and
//! it is said where they are not.

use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::model::RunnerId;
use crate::runner::backend::process::THIS_PROGRAM;
use crate::runner::backend::{ProcessBackend, Rlimit, Subtree};

/// How the back end `process` limits its work.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct ProcessArgs {
    /// Whether processes get no more than the cpu and memory their task names
    #[arg(long, value_enum, default_value_t = LimitsArg::Auto)]
    limits: LimitsArg,
    /// A limit of each process of a task: nofile, nproc, fsize or as, like nofile=1024 or fsize=2GiB
    #[arg(long = "rlimit", value_name = "NAME=VALUE", value_parser = Rlimit::parse)]
    rlimits: Vec<Rlimit>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum LimitsArg {
    /// Where this runner's control group can be divided
    #[default]
    Auto,
    /// Yes, and the runner does not start where it cannot be
    Required,
    /// No
    Off,
}

impl ProcessArgs {
    /// The back end; it must be opened before this process has started anything.
    pub(super) fn open(&self, grace: Duration, runner: &RunnerId) -> Result<ProcessBackend, String> {
        let subtree = self.subtree(runner)?;
        let backend = ProcessBackend::new(THIS_PROGRAM, grace).map_err(|why| why.to_string())?;
        let backend = match subtree {
            Some(subtree) => backend.dividing(subtree),
            None => backend,
        };
        backend.limiting(&self.rlimits).map_err(|why| format!("--rlimit {why}"))
    }

    fn subtree(&self, runner: &RunnerId) -> Result<Option<Subtree>, String> {
        if self.limits == LimitsArg::Off {
            return Ok(None);
        }
        match Subtree::of_this_process(runner) {
            Ok(subtree) => Ok(Some(subtree)),
            Err(why) if self.limits == LimitsArg::Required => Err(format!("--limits required: {why}")),
            Err(why) => {
                tracing::warn!(%why, "limits of cpu and memory are not applied");
                Ok(None)
            }
        }
    }
}
