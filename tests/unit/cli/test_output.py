"""What reaches the terminal, whatever file names hold."""

from __future__ import annotations

import sys

import pytest

from guestmemfs_fuse.cli import output


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain äöü 漢字", "plain äöü 漢字"),
        ("two\nlines", "two\\x0alines"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\udcff\udc80", "\\xff\\x80"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
    ],
)
def test_nothing_in_a_name_can_drive_the_terminal(text: str, shown: str) -> None:
    assert output.printable(text) == shown


def test_a_piped_table_is_aligned_text(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("NAME", "SIZE"), [("a", "5 B"), ("longer", "12 KiB")], right=("SIZE",))
    assert capsys.readouterr().out == "NAME      SIZE\na          5 B\nlonger  12 KiB\n"


def test_a_terminal_gets_the_same_cells_drawn(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    output.table(("NAME", "WHAT"), [("[red]a", "x\ny")])
    drawn = capsys.readouterr().out
    assert "[red]a" in drawn, "markup in names is text"
    assert "x\\x0ay" in drawn


def test_json_survives_names_that_are_not_utf8(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json({"path": "/\udcff"})
    assert capsys.readouterr().out == '{\n  "path": "/\\udcff"\n}\n'
