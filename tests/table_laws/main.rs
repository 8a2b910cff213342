//! The laws of a table, proven for every adapter by one suite.
//!
//! A law is a function over a `Fixture`; `laws!` makes a test of each law for one adapter. To add an adapter,
//! write its fixture and one more line of `laws!`; of `histories!` too, if it keeps the history itself. What only
//! a file, a faulty store or a server can do has modules of its own.

#![allow(clippy::unwrap_used)]

#[path = "../broker/mod.rs"]
mod broker;
mod damaged_files;
mod fixture;
mod history;
mod jetstream;
mod killed;
mod laws;
mod one_file;
mod servers;
mod sums;
mod with_faults;

use fixture::{Memory, Redb};
use jetstream::{OneServer, ThreeServers};

/// The laws of a table, each handed to a macro with its arguments.
macro_rules! every_law {
    ($each:ident: $($with:tt)*) => {
        $each! { $($with)* {
            laws::a_new_table_is_empty_and_stands_at_turn_zero,
            laws::a_turn_is_accepted_only_directly_after_the_one_before,
            laws::a_turn_is_there_whole_or_not_at_all,
            laws::of_several_writers_exactly_one_wins_each_number,
            laws::a_turn_committed_again_is_done_as_long_as_it_stands_there,
            laws::whoever_is_deposed_learns_by_which_turn,
            laws::a_deposed_writer_goes_on_once_it_has_followed,
            laws::a_turn_beyond_the_budget_is_refused_with_both_numbers,
            laws::a_refused_turn_leaves_its_number_to_a_smaller_one,
            laws::who_is_deposed_learns_that_before_that_its_turn_is_too_large,
            laws::a_released_head_is_read_back_as_such,
            laws::compaction_changes_nothing_of_what_is_loaded,
            laws::a_turn_that_was_compacted_away_deposes_with_the_heads_id,
            laws::following_yields_every_turn_once_and_in_order,
            laws::following_waits_for_the_next_turn,
            laws::who_has_read_one_turn_knows_how_many_are_left,
            laws::following_from_before_the_log_is_behind_and_never_a_gap,
            laws::following_from_beyond_the_head_is_behind,
            laws::following_from_the_first_kept_turn_has_no_gap,
            laws::every_kind_of_row_is_read_back_as_it_was_put,
            sums::what_is_loaded_equals_the_sum_of_all_turns,
        } }
    };
}

/// One test for each law.
macro_rules! laws {
    ($adapter:ident: $fixture:ty, $flavor:literal { $($module:ident :: $law:ident),* $(,)? }) => {
        mod $adapter {
            use super::*;
            $(
                #[tokio::test(flavor = $flavor)]
                async fn $law() {
                    $module::$law::<$fixture>().await;
                }
            )*
        }
    };
    ($($adapter:ident: $fixture:ty, $flavor:literal;)*) => {$(
        every_law!(laws: $adapter: $fixture, $flavor);
    )*};
}

/// One test for all laws: for an adapter that takes long to get ready.
macro_rules! laws_together {
    ($test:ident: $fixture:ty { $($module:ident :: $law:ident),* $(,)? }) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            let _kept = <$fixture>::get_ready().await;
            $(
                eprintln!("{}", stringify!($law));
                $module::$law::<$fixture>().await;
            )*
        }
    };
}

macro_rules! histories {
    ($($adapter:ident: $fixture:ty;)*) => {$(
        laws!($adapter: $fixture, "current_thread" {
            history::the_facts_of_a_turn_are_there_as_soon_as_it_is,
            history::the_last_turns_are_shown_unless_a_turn_is_named,
            history::a_question_about_a_task_is_answered_from_all_turns_it_occurs_in,
            history::facts_outlive_the_compaction_of_their_turns,
        });
    )*};
}

laws! {
    memory: Memory, "current_thread";
    redb: Redb, "current_thread";
    jetstream_on_one_server: OneServer, "multi_thread";
}
every_law!(laws_together: jetstream_on_three_servers_keeps_every_law: ThreeServers);
histories! {
    memory_history: Memory;
    redb_history: Redb;
}
