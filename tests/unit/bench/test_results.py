"""Rows, targets, and the published JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from guestmemfs_fuse.bench.results import (
    FORMAT_VERSION,
    OURS,
    Results,
    Target,
    contenders,
    from_json,
    pairs,
    row,
    to_json,
)
from guestmemfs_fuse.core.errors import UsageError


@pytest.mark.parametrize(
    ("ours", "target", "met"),
    [
        (102.0, Target("", 1.02, "ratio"), True),
        (103.0, Target("", 1.02, "ratio"), False),
        (103.0, Target("", 103.0, "figure"), True),
        (104.0, Target("", 103.0, "figure"), False),
        (99.0, Target("", 100.0, "figure", at_least=True), False),
        (100.0, Target("", 100.0, "figure", at_least=True), True),
        (1e9, None, None),
    ],
)
def test_a_target_is_met_or_not(ours: float, target: Target | None, met: bool | None) -> None:
    made = row("m", "t", "ns", {OURS: [ours], "control": [100.0]}, control="control", target=target)
    assert made.met is met


def test_a_target_within_the_spread_is_said_to_be_close() -> None:
    wanted = Target("", 10.0, "figure")
    assert row("m", "t", "ns", {OURS: [8.0, 9.0, 20.0]}, target=wanted).is_close
    assert not row("m", "t", "ns", {OURS: [8.0, 8.0, 9.0]}, target=wanted).is_close
    assert not row("m", "t", "ns", {OURS: [8.0, 9.0, 20.0]}).is_close


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    wanted = Target("", 1.0, "ratio")
    assert row("m", "t", "ns", {"control": [1.0]}, control="control", target=wanted).met is None
    assert row("m", "t", "ns", {OURS: [1.0]}, control="control", target=wanted).met is None


def test_the_json_says_all_and_reads_back(results: Results) -> None:
    again = from_json(to_json(results))
    assert to_json(again) == to_json(results)
    assert from_json(to_json(again)) == again
    assert again.areas[0].rows[1].figures == results.areas[0].rows[1].figures
    assert [row.target for row in again.areas[0].rows] == [row.target for row in results.areas[0].rows]


def test_the_json_says_what_is_met(results: Results) -> None:
    value = json.loads(to_json(results))
    assert [each["met"] for each in value["areas"][0]["rows"]] == [True, False, None]
    assert (value["format"], value["format_version"]) == ("guestmemfs-bench", FORMAT_VERSION)


def test_figures_are_published_with_five_digits(results: Results) -> None:
    machine = {"load": 1 / 3}
    text = to_json(Results(machine, "bench", "1", 1.0, ()))
    assert '"load": 0.33333' in text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": "guestmemfs-bench"}',
        '{"format": "guestmemfs-bench", "format_version": 99}',
        '{"format": "something else", "format_version": 1}',
        '{"format": "guestmemfs-bench", "format_version": 1, "areas": [{"name": "x"}]}',
    ],
)
def test_what_is_no_result_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        from_json(text)


def test_a_later_format_is_refused_by_its_number(results: Results) -> None:
    text = to_json(results).replace(f'"format_version": {FORMAT_VERSION}', '"format_version": 7')
    with pytest.raises(UsageError, match="7"):
        from_json(text)


def test_two_runs_are_compared_row_by_row(results: Results) -> None:
    lifecycle = results.areas[1]
    other = Results({}, "quick", "2", 1.0, (lifecycle,))
    assert [(area.name, here.x, there.x) for area, here, there in pairs(other, results)] == [
        ("lifecycle", 10, 10),
        ("lifecycle", 1000, 1000),
    ]


def test_regression_rows_that_measure_something_else_are_not_compared(results: Results) -> None:
    """A title says of how many threads, entries or seconds a figure is: 20 entries are not 10,000."""
    area = results.areas[0]
    renamed = replace(area, rows=(replace(area.rows[0], title="read by 8 threads"), *area.rows[1:]))
    other = Results({}, "quick", "2", 1.0, (renamed,))
    assert [here.metric for _, here, _ in pairs(other, results)] == ["mmap", "huge"]


def test_regression_a_figure_that_is_no_number_is_refused(results: Results) -> None:
    value = json.loads(to_json(results))
    value["areas"][0]["rows"][0]["figures"][OURS]["median"] = None
    with pytest.raises(UsageError, match="no number"):
        from_json(json.dumps(value))
    value = json.loads(to_json(results)) | {"machine": 5}
    with pytest.raises(UsageError):
        from_json(json.dumps(value))


def test_ours_is_shown_first_and_a_curves_own_beginning_not_at_all(results: Results) -> None:
    assert contenders(results.areas[0].rows) == [OURS, "tmpfs"]
    assert contenders(results.areas[1].rows) == [OURS]
