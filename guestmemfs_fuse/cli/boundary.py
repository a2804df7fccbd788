"""The one place where errors become lines on stderr and an exit code.

A person sees `error: what happened` and `hint: what to do`, never a traceback, unless `--debug` or
GUESTMEMFS_DEBUG asks for it. Called by the command group around every run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import click

from guestmemfs_fuse.core.errors import ExitCode, GuestmemfsError

DEBUG_VARIABLE = "GUESTMEMFS_DEBUG"
INTERRUPTED = 130
"""128 + SIGINT, as a shell reports it."""


def guard(invoke: Callable[[], object]) -> int:
    """Run invoke and return the process's exit code; whatever goes wrong is said on stderr."""
    try:
        result = invoke()
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except click.ClickException as error:
        _say(error.format_message(), _usage_hint(error))
        return error.exit_code
    except GuestmemfsError as error:
        _say(error.message, error.hint)
        return int(error.exit_code)
    except OSError as error:
        _say(_os_message(error), None)
        return int(ExitCode.FAILED)
    except Exception as error:
        _say(f"internal error: {type(error).__name__}: {error}", "`guestmemfs --debug ...` shows where")
        return int(ExitCode.FAILED)
    # ctx.exit() arrives here as a number when click does not run standalone.
    return result if isinstance(result, int) else int(ExitCode.OK)


def wants_debug() -> bool:
    """Whether tracebacks were asked for."""
    return os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")


def _say(message: str, hint: str | None) -> None:
    if wants_debug():
        import traceback

        traceback.print_exc(file=sys.stderr)
    from guestmemfs_fuse.cli.output import say

    say(f"error: {message}")
    if hint:
        say(f"hint: {hint}")


def _usage_hint(error: click.ClickException) -> str | None:
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"`{error.ctx.command_path} --help` shows how"
    return None


def _os_message(error: OSError) -> str:
    """What the kernel said, about which file."""
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename is not None else reason
