"""A click group that knows its commands by name and imports one only when it is used.

Start-up time is felt at every call, and `status` in a watch loop must not pay for rich, qemu or ptrace.

Invariant: showing the group's help imports no command (a test holds that the one-line texts here are those of
the commands). Called by cli/main.py.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import click

from guestmemfs_fuse.core.errors import ExitCode

Guard = Callable[[Callable[[], object]], int]


@dataclass(frozen=True, slots=True)
class Entry:
    """One command: its name, `module:attribute` below guestmemfs_fuse.cli, and its one line of help."""

    name: str
    where: str
    summary: str

    def load(self) -> click.Command:
        """Import the command."""
        module, _, attribute = self.where.partition(":")
        command = getattr(importlib.import_module(f"guestmemfs_fuse.cli.{module}"), attribute)
        assert isinstance(command, click.Command)
        if "_GUESTMEMFS_COMPLETE" in os.environ:  # a shell asks, not a person
            from guestmemfs_fuse.cli.completion import complete_values

            return complete_values(command)
        return command


class LazyGroup(click.Group):
    """A group made of entries, shown in their order.

    guard: wraps the whole run, from parsing to the last line of output, and turns what is raised into an
    exit code.
    """

    def __init__(self, *args: Any, entries: Sequence[Entry], guard: Guard, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._entries = {entry.name: entry for entry in entries}
        self._guard = guard

    @property
    def entries(self) -> Sequence[Entry]:
        """What the group was made of."""
        return tuple(self._entries.values())

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, in the order of the help."""
        return list(self._entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now; None when there is none."""
        entry = self._entries.get(cmd_name)
        return entry.load() if entry is not None else None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click; who says nothing is shown everything, and no error."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(int(ExitCode.USAGE))
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """See click; a name that is nearly one is said."""
        if args and not args[0].startswith("-") and args[0] not in self._entries:
            import difflib

            near = difflib.get_close_matches(args[0], self._entries, 1)
            meant = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"No such command {args[0]!r}.{meant}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, from the entries alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(entry.name, entry.summary) for entry in self.entries])

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run, and leave with a documented exit code; without standalone_mode, exceptions come through."""
        run: Callable[[], Any] = partial(super().main, *args, **{**extra, "standalone_mode": False})
        if not standalone_mode:
            return run()
        raise SystemExit(self._guard(run))
