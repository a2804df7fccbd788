"""Interleaving, medians and cost ratios."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestmemfs_fuse.bench.measure import cost_ratios, interleave, summarize, turns

POSITIVE = st.floats(min_value=0.1, max_value=1e9)


def test_a_summary_is_the_median_with_its_quartiles_and_extremes() -> None:
    found = summarize([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (found.median, found.low, found.high, found.least, found.most) == (3.0, 2.0, 4.0, 1.0, 5.0)
    assert found.count == 5


@given(st.lists(POSITIVE, min_size=1, max_size=30))
def test_a_summary_is_in_order(samples: list[float]) -> None:
    found = summarize(samples)
    assert found.least <= found.low <= found.median <= found.high <= found.most


def test_nothing_measured_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing"):
        summarize([])


@pytest.mark.parametrize(("better", "ratios"), [("less", [2.0, 0.5]), ("more", [0.5, 2.0])])
def test_a_ratio_is_of_cost_whatever_is_better(better: str, ratios: list[float]) -> None:
    assert cost_ratios([20.0, 5.0], [10.0, 10.0], better) == ratios  # type: ignore[arg-type]


def test_ratios_are_made_of_the_same_round() -> None:
    """A machine that is three times slower in one round makes both slower, not the ratio."""
    assert cost_ratios([11.0, 33.0], [10.0, 30.0], "less") == [1.1, 1.1]


def test_rounds_without_a_figure_make_no_ratio() -> None:
    assert cost_ratios([0.0, 4.0], [1.0, 2.0], "less") == [2.0]
    assert cost_ratios([1.0], [0.0], "less") == []


def test_samples_that_took_no_turns_are_compared_with_the_median() -> None:
    assert cost_ratios([4.0], [1.0, 2.0, 9.0], "less") == [2.0]


def test_every_contender_has_its_turn_in_every_round_and_another_one_is_first() -> None:
    order = list(turns(["a", "b", "c"], 4))
    rounds = [[name for number, name in order if number == each] for each in range(4)]
    assert rounds == [["a", "b", "c"], ["b", "a", "c"], ["c", "a", "b"], ["a", "c", "b"]]


def counting(start: float) -> Callable[[], dict[str, float]]:
    calls = iter(range(100))
    return lambda: {"time": start + next(calls)}


def test_the_first_round_is_thrown_away() -> None:
    told: list[tuple[int, int]] = []
    found = interleave(
        2, {"a": counting(0), "b": counting(10)}, progress=lambda done, of: told.append((done, of))
    )
    assert found == {"time": {"a": [1.0, 2.0], "b": [11.0, 12.0]}}
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_rounds_end_when_time_is_up_but_three_are_made() -> None:
    assert interleave(9, {"a": counting(0)}, enough=lambda: True) == {"time": {"a": [1.0, 2.0, 3.0]}}
    assert interleave(2, {"a": counting(0)}, enough=lambda: True) == {"time": {"a": [1.0, 2.0]}}


def test_a_single_round_is_kept() -> None:
    assert interleave(1, {"a": counting(0)}) == {"time": {"a": [0.0]}}


def test_what_only_one_contender_measured_is_kept_for_it() -> None:
    found = interleave(1, {"a": lambda: {"x": 1.0}, "b": lambda: {"x": 2.0, "y": 3.0}})
    assert found == {"x": {"a": [1.0], "b": [2.0]}, "y": {"b": [3.0]}}
