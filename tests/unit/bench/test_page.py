"""The page, its plots, and figures as people read them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from guestmemfs_fuse.bench import page, plots, text
from guestmemfs_fuse.bench.measure import summarize
from guestmemfs_fuse.bench.results import Results, Unit, as_published, from_json
from tests.cli import REPOSITORY


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0, "ns", "0 ns"),
        (950, "ns", "950 ns"),
        (1_234, "ns", "1.23 µs"),
        (45_600_000, "ns", "45.6 ms"),
        (2e9, "ns", "2.00 s"),
        (60 << 20, "B", "60.0 MiB"),
        (0, "B", "0 B"),
        (10 * 2**30, "B/s", "10.0 GiB/s"),
        (339_000, "1/s", "339 k/s"),
        (1.0, "fraction", "100%"),
        (0.99951, "fraction", "99.95%"),
        (0, "count", "0"),
    ],
)
def test_figures_have_three_digits_and_a_unit(value: float, unit: Unit, shown: str) -> None:
    assert text.figure(value, unit) == shown


def test_a_run_is_introduced_by_its_machine_as_far_as_that_is_known(results: Results) -> None:
    assert text.machine(results) == "a CPU, 2 CPUs, `bench` run"


def test_a_spread_is_shown_where_there_is_one() -> None:
    assert text.summary(summarize([1.0]), "ns") == "1.00 ns"
    assert text.summary(summarize([1.0, 2.0, 3.0]), "ns") == "2.00 ns (1.50 ns to 2.50 ns)"
    assert text.ratio(summarize([1.0, 1.0])) == "1.00x (1.00 to 1.00)"


def test_the_page_says_machine_targets_and_what_is_missing(results: Results) -> None:
    shown = page.markdown(results, ["memory"])
    assert "| CPU | a CPU |" in shown
    assert "| memory | 24.0 GiB |" in shown
    assert "2 of 3 are met." in shown
    assert "| Memory path: mmap | 1.60x (1.50 to 1.70) of tmpfs | within 2% |" in shown
    assert "![Memory path](memory.svg)" in shown
    assert "lifecycle.svg" not in shown
    assert "- hugetlbfs: no pages" in shown
    assert "Not measured: no QEMU" in shown
    assert "| 10 files |" not in shown  # the curve's control has no column of its own
    assert "8.82x (8.64 to 9.00) of 10 files" in shown


def test_the_page_depends_on_the_results_alone(results: Results) -> None:
    assert page.markdown(results) == page.markdown(results)
    assert page.markdown(results).endswith("\n")


if plots.available():  # make bench installs matplotlib, make test does not need it

    def test_plots_are_the_same_bytes_for_the_same_results(results: Results, tmp_path: Path) -> None:
        first, second = tmp_path / "1", tmp_path / "2"
        for directory in (first, second):
            directory.mkdir()
            assert plots.draw(results, directory) == ["memory", "lifecycle"]
        for path in first.iterdir():
            assert path.read_bytes() == (second / path.name).read_bytes()
            assert path.read_text().startswith("<?xml")


def test_regression_the_published_page_is_what_the_published_json_says() -> None:
    """The page was made of more digits than the JSON has (105 ms and 104 ms), and in another order."""
    directory = REPOSITORY / "docs" / "benchmarks"
    published = from_json((directory / "results.json").read_text())
    drawn = [path.stem for path in directory.glob("*.svg")]
    assert page.markdown(published, drawn) == (directory / "README.md").read_text()


def test_regression_contenders_keep_their_order_in_the_json(results: Results) -> None:
    memory = results.areas[0]
    assert list(memory.rows[0].figures) == ["guestmemfs", "tmpfs"]
    turned = replace(memory.rows[0], figures=dict(reversed(memory.rows[0].figures.items())))
    again = as_published(replace(results, areas=(replace(memory, rows=(turned,)),)))
    assert list(again.areas[0].rows[0].figures) == ["tmpfs", "guestmemfs"]
