"""When a process is let go: a pure function of times."""

from __future__ import annotations

from guestmemfs_fuse.redirect.tracee import LeavingRule, Process

RULE = LeavingRule(settle_s=1.0)


def test_a_process_that_never_mapped_is_never_due() -> None:
    assert RULE.due_s(Process(1)) is None


def test_one_that_mapped_is_due_when_it_has_been_quiet() -> None:
    process = Process(1)
    process.has_mapped(10.0)
    assert RULE.due_s(process) == 11.0
    process.has_mapped(10.5)
    assert RULE.due_s(process) == 11.5


def test_one_that_prepares_memory_is_not_due_however_long_it_takes() -> None:
    process = Process(1)
    process.has_mapped(10.0)
    process.begins_preparing(7, 10.2)
    process.begins_preparing(8, 10.3)
    assert RULE.due_s(process) is None
    process.ends_preparing(7, 70.0)
    assert RULE.due_s(process) is None
    process.ends_preparing(8, 71.0)
    assert RULE.due_s(process) == 72.0


def test_the_short_madvise_of_an_allocator_does_not_put_it_off() -> None:
    process = Process(1)
    process.has_mapped(10.0)
    process.begins_preparing(7, 10.9)
    process.ends_preparing(7, 10.901)
    assert RULE.due_s(process) == 11.0


def test_preparing_before_the_first_mapping_counts_for_nothing() -> None:
    process = Process(1)
    process.begins_preparing(7, 10.0)
    process.ends_preparing(7, 70.0)
    assert RULE.due_s(process) is None


def test_another_program_starts_from_the_beginning() -> None:
    process = Process(1)
    process.has_mapped(10.0)
    process.begins_preparing(7, 10.2)
    process.starts_over()
    assert RULE.due_s(process) is None
    process.has_mapped(20.0)
    assert RULE.due_s(process) == 21.0


def test_until_and_keep_know_no_time() -> None:
    process = Process(1)
    process.has_mapped(10.0)
    assert LeavingRule(until=2).due_s(process) is None
    assert LeavingRule(keep=True).due_s(process) is None


def test_until_is_about_all_mappings_and_keep_beats_it() -> None:
    assert not LeavingRule(until=2).all_leave(1)
    assert LeavingRule(until=2).all_leave(2)
    assert not LeavingRule(until=2, keep=True).all_leave(3)
    assert not RULE.all_leave(100)


def test_one_that_is_leaving_is_due_when_its_sleepers_are_to_be_woken() -> None:
    process = Process(1, interrupt_at_s=5.0)
    assert LeavingRule(keep=True).due_s(process) == 5.0
