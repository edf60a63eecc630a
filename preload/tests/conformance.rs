//! The C and C++ surface of the preload library, and the rules of survival: forks, threads, signals,
//! limits, misuse. The checks are C programs in `c/`, for that is who calls these functions.

#[path = "support/callgrind.rs"]
mod callgrind;
#[path = "support/checks.rs"]
mod checks;
#[path = "support/own_threads.rs"]
mod own_threads;
#[path = "support/programs_in_c.rs"]
mod programs_in_c;
#[path = "support/start.rs"]
mod start;
mod support;

use support::Outcome;

fn succeeds(outcome: Outcome) {
    outcome.expect_success();
}

/// One line that says what was wrong, and SIGABRT.
fn is_reported(outcome: Outcome) {
    use std::os::unix::process::ExitStatusExt;
    let said = outcome.said();
    assert_eq!(outcome.status.signal(), Some(libc::SIGABRT), "{}: {said}", outcome.status);
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    assert_eq!(lines.len(), 1, "{said}");
    assert!(lines[0].starts_with("slackwater:"), "{said}");
}

mod surface {
    crate::checks::checks!(
        "surface.c",
        crate::succeeds,
        [
            whole_surface_is_exported,
            every_size_is_aligned_and_writable,
            zero_sizes,
            impossible_sizes_are_refused,
            overflowing_products_are_refused,
            posix_memalign_errors,
            alignments_up_to_beyond_a_segment,
            aligned_blocks_do_not_overlap,
            alignments_that_are_no_power_of_two,
            page_aligned_blocks,
            usable_size_is_usable,
            realloc_between_all_kinds,
            realloc_of_null_is_malloc,
            realloc_in_small_steps,
            realloc_of_very_large_blocks,
            calloc_is_zero_after_dirty_use,
            free_preserves_errno,
            cfree_frees_where_it_exists,
            what_succeeds_leaves_errno_alone,
            libc_and_its_callers_share_blocks,
            a_long_random_walk,
        ]
    );
}

mod introspection {
    crate::checks::checks!(
        "introspection.c",
        crate::succeeds,
        [
            trim_returns_a_truth_value,
            trim_gives_every_kind_back,
            trim_leaves_live_blocks_alone,
            mallinfo_follows_what_is_live,
            malloc_info_writes_xml,
            malloc_stats_writes_to_stderr,
            mallopt_answers_and_harms_nothing,
            the_heap_has_no_huge_pages,
        ]
    );
}

mod limits {
    crate::checks::checks!(
        "limits.c",
        crate::succeeds,
        [
            address_space_runs_out_by_megabytes,
            address_space_runs_out_by_small_blocks,
            address_space_runs_out_by_pages,
            data_runs_out,
            what_ran_out_is_sampled_again,
            threads_run_out_together,
            a_low_limit_leaves_room_for_others,
            a_very_low_limit_still_serves,
        ]
    );
}

mod space {
    crate::checks::checks!(
        "space.c",
        crate::succeeds,
        [
            a_small_process_has_few,
            a_limit_that_is_set_later_binds,
            what_was_freed_counts_no_more,
            a_block_may_grow_to_the_limit,
            sparse_blocks_beyond_the_memory,
            a_small_daemon_locks_itself,
            others_may_map_where_the_heap_would_grow,
        ]
    );
}

mod lifecycle {
    crate::checks::checks!(
        "lifecycle.c",
        crate::succeeds,
        [
            fork_under_threads,
            fork_from_a_thread,
            fork_handlers_may_allocate,
            vfork_and_spawn,
            threads_exit_while_others_free_their_blocks,
            two_hundred_threads,
            short_threads_do_not_add_up,
            key_destructors_allocate_and_free,
            libraries_come_and_go,
            signal_handlers_allocate_small_blocks,
            signal_handlers_allocate_every_kind,
            signal_handlers_allocate_in_every_thread,
            cancelled_threads_leave_valid_blocks,
            exit_handlers_allocate_and_free,
        ]
    );
}

mod late {
    crate::checks::checks!(
        "late.c",
        crate::succeeds,
        [
            variables_that_come_later_are_not_read,
            a_vfork_child_may_be_the_first,
            a_copy_may_be_the_first,
            forked_children_may_be_the_first,
        ]
    );
}

mod forks {
    crate::checks::checks!(
        "forks.c",
        crate::succeeds,
        [
            handlers_of_a_library_may_allocate,
            handlers_may_start_and_join_threads,
            handlers_may_take_a_mutex_that_others_allocate_under,
            streams_are_flushed_and_read_around_forks,
            a_childs_threads_find_the_streams_unlocked,
        ]
    );
}

mod foreign {
    crate::checks::checks!(
        "foreign.c",
        crate::succeeds,
        [
            anothers_blocks_are_used_by_the_program,
            anothers_blocks_are_used_by_threads_and_children,
            anothers_blocks_go_back,
            anothers_block_that_cannot_grow_stays,
            dlerror_is_left_alone,
            a_constructor_has_them_before_anybody,
            what_is_no_block_ends_the_process,
        ]
    );
}

mod deepbind {
    crate::checks::checks!(
        "deepbind.c",
        crate::succeeds,
        [
            a_plugin_frees_what_libc_gives_it,
            blocks_go_to_and_fro,
            two_threads_open_the_first,
            a_plugin_asks_the_heap_that_it_uses,
            libraries_are_looked_for_where_the_caller_is,
        ]
    );
}

mod two {
    crate::checks::checks!(
        "two.c",
        crate::succeeds,
        [the_seconds_blocks_go_to_the_second, libcs_blocks_go_to_libc_through_both]
    );
}

mod wrapper {
    crate::checks::checks!(
        "wrapper.c",
        crate::succeeds,
        [
            all_functions_agree,
            the_other_names_are_the_same_functions,
            nothing_else_calls_the_programs,
            threads_and_children_do_it_too,
        ]
    );
}

mod own_heap {
    crate::checks::checks!("own_heap.c", crate::succeeds, [reallocarray_is_the_programs_realloc]);
}

mod stats {
    crate::checks::checks!(
        "stats.c",
        crate::succeeds,
        [
            stderr_is_full,
            stderr_is_a_broken_pipe,
            stderr_is_closed,
            stderr_is_for_reading,
            stderr_is_another_stream,
            a_stream_that_fails_keeps_the_error,
            they_are_no_cancellation_points,
            a_thread_may_be_cancelled_while_it_writes_them,
        ]
    );
}

mod filters {
    crate::checks::checks!(
        "filters.c",
        crate::succeeds,
        [
            a_list_of_its_own_by_prctl,
            a_list_of_its_own_by_syscall,
            a_list_without_a_word_before,
            a_list_before_the_first_allocation,
            a_second_filter,
            a_list_for_all_threads,
            a_list_for_one_thread_of_many,
            the_ticker_is_gone_before_the_filter_is_set,
            strict_mode,
            questions_change_nothing,
            a_childs_filter_is_the_childs,
            born_as_a_service_without_rights,
            born_as_a_service_with_a_list,
            born_in_a_container,
            born_in_a_container_with_a_list_of_its_own,
            other_calls_are_as_they_were,
            a_child_returns_on_a_stack_of_its_own,
        ]
    );
}

mod clones {
    crate::checks::checks!(
        "clones.c",
        crate::succeeds,
        [
            a_program_of_one_thread_has_one_around_a_fork,
            a_program_of_many_keeps_its_ticker,
            a_namespace_of_users_can_be_had,
            children_by_the_system_call,
            children_by_assembly,
            children_by_libcs_clone,
            children_by_clone3,
            children_by_fork_without_handlers,
            copies_of_copies,
            a_process_has_the_code_of_its_last_thread,
            children_that_share_the_memory_are_left_alone,
        ]
    );
}

mod interposed {
    crate::checks::checks!(
        "interposed.c",
        crate::succeeds,
        [the_clock_of_others_is_theirs, signals_that_others_see_first_are_the_programs]
    );
}

mod pages {
    crate::checks::checks!(
        "pages.c",
        crate::succeeds,
        [
            changes_end_with_a_large_block,
            changes_of_a_part_end_with_the_block,
            changes_of_small_blocks_end_with_their_span,
            what_realloc_leaves_is_ordinary,
            freed_blocks_do_not_count_as_locked,
            children_have_what_comes_next,
            children_free_what_they_do_not_have,
            results_and_errors_are_libcs,
            ranges_may_cover_more_than_a_block,
            signal_handlers_may_change_pages,
            blocks_may_be_freed_by_others,
            mappings_do_not_add_up,
            locked_programs_give_memory_back,
            programs_locked_for_now_give_memory_back,
            programs_locked_on_fault_give_memory_back,
            locked_programs_are_sampled,
        ]
    );
}

mod resizes {
    crate::checks::checks!(
        "resizes.c",
        crate::succeeds,
        [
            blocks_grow_and_shrink_in_steps,
            blocks_go_to_and_fro_between_all_sizes,
            aligned_blocks_grow,
            zeros_are_kept,
            within_a_class_blocks_move_once_at_most,
            other_threads_resize_and_free,
            refused_sizes_leave_the_block_alone,
        ]
    );
}

mod rest {
    crate::checks::checks!(
        "rest.c",
        crate::succeeds,
        [
            everything_freed_by_blocked_threads_goes_back,
            medium_blocks_freed_by_blocked_threads_go_back,
            large_blocks_freed_by_blocked_threads_go_back,
            a_thread_blocked_for_ever_keeps_no_cached_blocks,
            scattered_survivors_keep_only_their_pages,
            the_ticker_is_there_while_needed_and_gone_at_rest,
            a_small_program_has_no_ticker,
            the_ticker_takes_no_signals,
            the_ticker_has_no_priority_and_no_place_of_the_programs,
            it_can_be_forbidden,
            release_can_be_off,
            the_process_ends_with_its_last_thread,
            the_ticker_has_the_programs_identity,
            the_ticker_has_an_identity_of_equal_halves,
            ten_children_forked_while_releasing,
            a_thousand_blocked_threads,
            ten_thousand_short_threads,
            a_hundred_bursts_and_rests_do_not_add_up,
            exec_of_a_vfork_child_leaves_the_parents_ticker,
            a_ticker_that_a_vfork_child_started_is_not_counted_on,
        ]
    );
}

mod signals {
    crate::checks::checks!(
        "signals.c",
        crate::succeeds,
        [
            who_asked_for_nothing_has_the_default,
            a_default_has_the_flags_it_was_given,
            errors_are_libcs,
            a_handler_is_the_kernels_as_it_was_given,
            a_fault_is_the_programs,
            crash_reporters_reach_their_end,
            handlers_are_called_as_often_as_their_flags_say,
            a_handler_may_be_left_by_a_jump,
            a_stack_that_overflows_ends_the_program,
            a_signal_that_is_sent_is_the_programs,
            a_program_that_is_executed_begins_with_the_default,
            children_of_vfork_change_their_own_alone,
        ]
    );
}

mod cxx {
    crate::checks::checks!(
        "cxx.cpp",
        crate::succeeds,
        [
            new_and_delete_of_types,
            every_operator_form,
            impossible_sizes_throw,
            the_new_handler_is_asked,
            odd_alignments,
            what_the_handler_frees_is_enough,
            a_thread_is_cancelled_in_the_handler,
            deletes_with_wrong_sizes,
            blocks_of_malloc_and_of_new_are_the_same,
            delete_preserves_errno,
            a_class_has_operators_of_its_own,
            failures_in_threads,
            static_objects,
            thread_local_objects,
            exceptions_in_threads,
            containers_hand_blocks_between_threads,
        ]
    );
}

mod replaced {
    crate::checks::checks!(
        "replaced.cpp",
        crate::succeeds,
        [
            every_form_calls_the_programs,
            the_cxx_library_calls_the_programs,
            the_next_ones_are_an_allocators,
        ]
    );
}

mod replaced_new {
    crate::checks::checks!(
        "replaced_new.cpp",
        crate::succeeds,
        [every_new_is_counted, what_it_throws_is_turned_into_null]
    );
}

mod library_operators {
    crate::checks::checks!(
        "library_operators.cpp",
        crate::succeeds,
        [
            the_librarys_are_its_own,
            the_program_has_the_librarys,
            blocks_of_the_librarys_are_deleted_there,
        ]
    );
}

mod plugin_operators {
    crate::checks::checks!(
        "plugin_operators.c",
        crate::succeeds,
        [
            a_plugins_operators_are_its_own,
            a_lazy_plugins_too,
            a_plugin_that_looks_at_itself_first_too,
        ]
    );
}

mod misuse {
    crate::checks::checks!(
        "misuse.c",
        crate::is_reported,
        [
            double_free_of_small,
            double_free_of_sub4k,
            double_free_of_medium,
            double_free_of_large,
            double_free_of_several_segments,
            double_free_much_later,
            double_free_in_a_live_span,
            misaligned_small,
            middle_of_small,
            middle_of_medium,
            middle_of_large,
            start_of_large_plus_sixteen,
            middle_of_several_segments,
            wild_pointer_in_the_arena,
            realloc_of_freed_large,
            realloc_of_misaligned,
        ]
    );
}
