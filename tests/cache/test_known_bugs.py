"""What other caches get wrong, and where it is shown that this one does not: each by its number in our list of bugs."""

import importlib
import inspect
import time

import pytest

from paintkit import clock
from tests.cache.threads import PATIENCE, Gate, Running

#: The bug, and the tests (module below `tests`, name after `test_`) on which a cache that has it fails.
KNOWN = {
    "T1 a load in flight undoes an invalidation": (
        "cache.test_invalidation a_load_under_way_is_not_kept",
        "cache.test_invalidation no_history_shows_a_stale_value",
        "cache.test_invalidation the_ledger_forgets_on_the_safe_side",
        "cache.test_extras a_put_gives_way_to_an_invalidation_before_its_commit",
        "cache.test_extras an_older_load_does_not_replace_a_refreshed_value",
        "cache.test_extras a_load_that_began_before_a_put_does_not_replace_it",
        "cache.test_levels_histories no_history_in_memory_shows_a_stale_value",
        "cache.test_levels_histories no_history_of_two_processes_shows_a_stale_value",
    ),
    "T2 a loader that raises leaves its waiters": (
        "cache.test_flights a_failure_goes_to_all_who_wait_and_is_not_kept",
        "cache.test_flights a_failing_key_fails_again_and_does_not_hang",
    ),
    "T3 a load that needs itself": (
        "cache.test_flights a_load_that_needs_itself_does_not_wait_for_itself",
        "cache.test_flights a_load_that_needs_itself_by_way_of_another_does_not_wait_for_itself",
    ),
    "T4 two loads that need each other": (
        "cache.test_flights two_loads_that_need_each_other_do_not_wait_for_each_other",
        "cache.test_flights a_ring_of_loads_over_two_managers_does_not_close",
        "cache.test_flights a_load_waits_for_whatever_a_load_within_it_waits_for",
    ),
    "T5 a failed old load evicts the new one": (
        "cache.test_flights a_flight_that_was_invalidated_does_not_remove_its_successor",
    ),
    "T6 cancelling the first caller cancels the others": (
        "cache.test_flights the_others_survive_the_first_callers_cancellation",
        "cache.test_flights the_last_waiter_takes_the_load_along",
        "cache.test_flights an_interrupted_leader_hands_over",
        "cache.test_levels_lives a_load_goes_on_for_those_who_still_wait",
    ),
    "T7 a forked child hangs": (
        "cache.test_flights a_forked_child_does_not_wait_for_its_parents_threads",
        "cache.test_flights nobody_is_in_the_midst_of_a_step_while_a_process_forks",
        "cache.test_staleness a_forked_child_refreshes_with_workers_of_its_own",
        "cache.test_levels_lives a_forked_child_verifies_its_copies",
    ),
    "T8 two event loops": (
        "cache.test_flights event_loops_one_after_another_share_the_value",
        "cache.test_flights a_loop_that_closes_strands_nobody",
        "cache.test_flights a_stampede_loads_once",
    ),
    "T9 one object's error is raised for another": ("cache.test_flights failures_are_apart_for_each_object",),
    "T10 single flight relies on the interpreter's lock": ("cache.test_flights a_stampede_loads_once",),
    "T11 keys by text": ("cache.test_keys no_two_different_values_share_a_key",),
    "T12 keys by equality or hash": (
        "cache.test_keys keys_are_equal_exactly_if_values_are",
        "cache.test_cached types_are_part_of_the_call",
    ),
    "T13 NaN never hits": (
        "cache.test_keys equal_values_share_a_key",
        "cache.test_cached types_are_part_of_the_call",
    ),
    "T14 an address that is used again": (
        "cache.test_keys an_address_used_again_is_another_object",
        "cache.test_cached an_address_used_again_does_not_inherit",
    ),
    "T15 keys keep objects alive": (
        "cache.test_cached an_object_is_not_kept_alive_and_takes_its_entries_along",
        "cache.test_cached an_argument_known_by_identity_takes_its_entries_along",
    ),
    "T16 two functions of one name": (
        "cache.test_cached two_functions_of_one_name_stay_apart",
        "cache.test_levels_members two_functions_of_one_name_are_refused",
    ),
    "T17 the coroutine is cached": (
        "cache.test_cached an_async_function_caches_its_result",
        "cache.test_values a_coroutine_is_refused",
    ),
    "T18 None is a miss": ("cache.test_cached none_is_a_value", "cache.test_levels nothing_is_a_value"),
    "T19 a caller changes what is cached": (
        "cache.test_copies how_much_callers_share",
        "cache.test_levels callers_in_two_processes_share_no_object",
    ),
    "T20 time by the wall clock": (
        "cache.test_known_bugs time_is_told_by_a_clock_that_nobody_sets",
        "cache.test_levels a_copy_lives_no_longer_than_the_value",
    ),
    "T21 one call written in several ways": (
        "cache.test_cached one_call_however_it_is_written",
        "cache.test_cached named_arguments_in_any_order",
    ),
    "T22 pickle from a shared store": (
        "redis.test_attacks pickle_needs_a_signature",
        "redis.test_attacks a_hostile_payload_is_a_miss",
    ),
    "T23 one client reads another's data": (
        "redis.test_attacks a_value_cannot_be_moved_to_another_key",
        "cache.test_places two_calls_have_one_form_if_they_are_one_call",
    ),
    "T24 a lease ends during the load": (
        "cache.test_levels a_load_that_outlives_its_mark_fills_nothing",
        "cache.test_levels of_two_loads_the_first_is_shared",
    ),
    "T25 an answer older than the word that follows it": (
        "cache.test_levels an_invalidation_at_every_step_of_a_load",
    ),
    "T26 word of changes hangs or costs as much as there is in the cache": (
        "cache.test_known_bugs word_of_one_call_looks_at_no_other",
    ),
    "T27 a tag is an instant": ("cache.test_levels word_of_a_tag_drops_no_value_that_came_after_it",),
    "T28 an evicted tag makes old values valid": (
        "cache.test_levels tokens_that_are_lost_make_values_invalid",
    ),
    "T29 an invalidation before the commit": (
        "cache.test_invalidation an_invalidation_waits_for_the_commit",
        "cache.test_invalidation a_miss_from_an_old_snapshot_is_not_kept",
        "cache.test_invalidation what_a_unit_reads_of_what_it_invalidated_is_its_own",
        "cache.test_keeping what_a_writing_unit_does_not_find_is_its_own",
        "cache.test_extras what_a_unit_of_work_puts_is_there_from_its_commit_on",
        "cache.test_memo a_unit_of_work_reads_around_what_another_task_of_the_request_remembers",
        "cache.test_levels a_unit_reads_around_what_it_invalidated",
    ),
    "T30 a request's state is not in the key": (
        "cache.test_cached a_varying_function_keeps_one_value_for_each_state",
        "cache.test_cached invalidating_a_call_drops_every_variant",
        "cache.test_levels variants_go_together",
    ),
    "T31 names of arguments are stolen": ("cache.test_cached any_signature_with_any_names",),
    "T32 a server that forbids commands": (
        "redis.test_link a_server_that_forbids_client_and_config_will_do",
    ),
    "T33 one lock for all objects of a class": ("cache.test_known_bugs loads_of_other_objects_go_on",),
    "T34 what runs in the background is lost": (
        "cache.test_staleness a_failed_refresh_is_told_and_paused",
        "cache.test_staleness a_refresh_has_the_callers_context_and_none_of_its_limits",
        "cache.test_staleness a_refresh_in_a_loop_that_closed_is_begun_anew",
        "cache.test_staleness a_refresh_goes_on_when_whoever_joined_it_leaves",
        "cache.test_staleness the_interpreter_does_not_wait_for_a_refresh",
    ),
}


def test_no_number_is_left_out():
    """The list runs from T1 to T34."""
    assert [f"T{number}" for number in range(1, 35)] == [bug.split()[0] for bug in KNOWN]


@pytest.mark.parametrize("bug", KNOWN)
def test_every_known_bug_has_its_tests(bug):
    """The list above is true: the tests are there, and say in a sentence what they show."""
    for told in KNOWN[bug]:
        module, name = told.split()
        law = getattr(importlib.import_module(f"tests.{module}"), f"test_{name}")
        assert inspect.getdoc(law)


def test_time_is_told_by_a_clock_that_nobody_sets():
    """T20: but for a test's own clock, time is the system's monotonic one."""
    assert time.monotonic is clock.now


def test_loads_of_other_objects_go_on(cache, colour):
    """T33: while one object's load runs, another object's, and another call's, are not held up."""

    def look(self, number):
        return self.body(number)

    look.__qualname__ = "Shelf.look"
    load = cache.cache_result()(colour.function(look))

    class Shelf:
        def __init__(self, body):
            self.body = body

    gate = Gate(lambda: "slow")
    slow, quick = Shelf(lambda number: gate() if number == 1 else "other"), Shelf(lambda number: "quick")
    running = Running(lambda: colour.call(load, slow, 1))
    assert gate.began.wait(PATIENCE)
    assert ["quick", "other"] == [colour.call(load, quick, 1), colour.call(load, slow, 2)]
    assert running.alive
    gate.open()
    assert "slow" == running.result()


def test_word_of_one_call_looks_at_no_other(cache, colour):
    """T26: an invalidation of one call touches its entries only, however many there are."""
    looked = []
    load = cache.cache_result(tags=lambda number: (f"n:{number}",))(colour.function(lambda number: number))
    for number in range(50):
        colour.call(load, number)
    level = cache._store.level
    right = level.remove
    level.remove = lambda entry, cause: (looked.append(entry), right(entry, cause))
    colour.call(load.invalidate, 7)
    cache.invalidate("n:8")
    assert 2 == len(looked)
