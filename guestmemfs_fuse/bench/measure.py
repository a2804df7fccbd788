"""What is made of samples: interleaved rounds, medians with quartiles, cost ratios to a control. Pure.

A figure of one moment says little on a machine that others use too. So contenders take turns within every
round, a ratio is made of two figures of the same round, and what is reported is the median over the rounds
with its quartiles. A cost ratio is how many times the control's cost: above 1 is slower than the control,
whether the figure itself is a time or a rate.

Called by the areas, and by results.py for what is published.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Better = Literal["less", "more"]
Figures = Mapping[str, float]
"""What one contender measured in one round, by metric."""

Samples = dict[str, dict[str, list[float]]]
"""metric -> contender -> one figure a round."""

_FEWEST_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Summary:
    """Median, quartiles and extremes of some samples."""

    count: int
    median: float
    low: float
    high: float
    least: float
    most: float


def summarize(samples: Sequence[float]) -> Summary:
    """Raises ValueError when there are no samples. Quartiles of fewer than three samples are the extremes."""
    if not samples:
        raise ValueError("nothing was measured")
    least, most = min(samples), max(samples)
    low, high = least, most
    if len(samples) > 2:
        low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Summary(len(samples), statistics.median(samples), low, high, least, most)


def cost_ratios(samples: Sequence[float], control: Sequence[float], better: Better) -> list[float]:
    """How many times the control's cost, round by round. Rounds in which either is 0 say nothing.

    Samples that were not taken in turns (there are more of one) are compared with the control's median.
    """
    if len(samples) != len(control):
        control = [statistics.median(control)] * len(samples)
    pairs = [(mine, its) for mine, its in zip(samples, control, strict=True) if mine > 0 and its > 0]
    return [mine / its if better == "less" else its / mine for mine, its in pairs]


def turns(contenders: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """(round, contender): all of them in every round, another one first each time.

    Every second round goes the other way round: what one leaves behind (memory, caches) must not always
    fall to the same other one.
    """
    for number in range(rounds):
        shift = number % len(contenders)
        others = [*contenders[shift + 1 :], *contenders[:shift]]
        for name in (contenders[shift], *(reversed(others) if number % 2 else others)):
            yield number, name


def interleave(
    rounds: int,
    contenders: Mapping[str, Callable[[], Figures]],
    *,
    warmup: int | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
    enough: Callable[[], bool] = lambda: False,
) -> Samples:
    """Run all contenders in turns and collect what they measured.

    warmup: how many more rounds come first and are thrown away; one, unless there is but one round anyway.
    progress: told after every round how many of how many are done. enough: asked after every round whether
    time is up; three rounds are made in any case, if so many were asked for.
    """
    found: Samples = {}
    if warmup is None:
        warmup = 1 if rounds > 1 else 0
    total = rounds + warmup
    for turn, (number, name) in enumerate(turns(list(contenders), total), 1):
        figures = contenders[name]()
        if number >= warmup:
            for metric, figure in figures.items():
                found.setdefault(metric, {}).setdefault(name, []).append(figure)
        if turn % len(contenders) == 0:
            progress(turn // len(contenders), total)
            if number + 1 >= warmup + _FEWEST_ROUNDS and enough():
                break
    return found
