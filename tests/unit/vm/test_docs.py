"""docs/live-update.md names tests that exist, and backs every cell that says yes by one."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
TEXT = (REPOSITORY / "docs" / "live-update.md").read_text()
_NOTES = dict(re.findall(r"^(\d+)\. (.*?)(?=^\d+\. |\Z)", TEXT, re.MULTILINE | re.DOTALL))


def test_every_test_that_is_named_exists() -> None:
    assert _NOTES
    for number, note in _NOTES.items():
        paths = re.findall(r"tests/[\w/]+\.py", note)
        assert paths, number
        sources = "".join((REPOSITORY / path).read_text() for path in paths)
        for name in re.findall(r"\btest_\w+\b(?!\.py)", note):
            assert f"def {name}(" in sources, f"{number}: {name}"


def test_every_cell_names_its_tests_or_says_that_there_is_none() -> None:
    table = TEXT.partition("## What survives what")[2]
    rows = [line.split("|")[2:-1] for line in table.splitlines() if re.match(r"\| [a-zA-Z]", line)]
    assert len(rows) == 11 and all(len(row) == 4 for row in rows)
    for cell in (cell for row in rows for cell in row):
        assert "not tested" in cell or re.search(r"\[\d+\]", cell) or cell.strip() == "**no**", cell
        assert all(number in _NOTES for number in re.findall(r"\[(\d+)\]", cell)), cell
