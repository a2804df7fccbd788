"""What commands print: results on stdout, everything else on stderr.

Invariant: file names come from users and may hold any byte, so no text reaches the terminal but through
`printable`. rich is imported only where a table goes to a terminal. Called by the commands.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click


def say(text: str) -> None:
    """One line that is not a result, on stderr."""
    click.echo(printable(text), err=True)


def result(text: str) -> None:
    """One line of the result, on stdout."""
    click.echo(printable(text))


def print_json(value: object) -> None:
    """The result for programs; bytes of file names that are not UTF-8 appear as \\udcXX (surrogateescape)."""
    click.echo(json.dumps(value, indent=2))


def printable(text: str) -> str:
    """The text with control characters and undecodable bytes as \\xNN: what a terminal may be shown."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that surrogateescape let through
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def file_label(row: Mapping[str, Any]) -> str:
    """How a file of a status or map is called: by its path, or by its number when it has no name any more."""
    return row["path"] or f"(unlinked, inode {row['ino']})"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """A table on stdout: drawn for a terminal, aligned columns for a pipe. right: columns of figures."""
    cells = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _drawn(columns, cells, right)
        return
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for row in [list(columns), *cells]:
        padded = [
            cell.rjust(width) if name in right else cell.ljust(width)
            for name, cell, width in zip(columns, row, widths, strict=True)
        ]
        click.echo("  ".join(padded).rstrip())


def _drawn(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in columns:
        drawn.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    Console(highlight=False).print(drawn)
