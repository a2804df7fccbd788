"""What holds for the whole command: help, lazy loading, and the one error boundary."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import click
import pytest
from click.testing import Result

from guestmemfs_fuse import __version__
from guestmemfs_fuse.cli import list as list_module
from guestmemfs_fuse.cli.boundary import DEBUG_VARIABLE, guard
from guestmemfs_fuse.cli.lazy import Entry
from guestmemfs_fuse.cli.main import ENTRIES, cli
from guestmemfs_fuse.core.errors import DaemonError, ExitCode, InstanceBusyError

HEAVY = ("rich", "pyfuse3", "trio", "asyncio", "qemu", "ptrace")


def _imported_by(*arguments: str) -> set[str]:
    """Top-level modules that a run of the real command imports."""
    code = (
        "import json, sys\n"
        "from guestmemfs_fuse.cli.main import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60
    )
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize("arguments", [("--help",), ("status", "nobody"), ("list",), ("mount", "/nowhere")])
def test_nothing_heavy_is_imported_unless_it_is_used(arguments: tuple[str, ...]) -> None:
    assert not _imported_by(*arguments) & set(HEAVY)


def test_help_imports_no_command() -> None:
    code = (
        "import sys\n"
        "from guestmemfs_fuse.cli.main import cli\n"
        "cli.main(['--help'], standalone_mode=False)\n"
        "print([name for name in sys.modules if name == 'guestmemfs_fuse.cli.mount'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_command_loads_and_explains_itself_with_an_example(
    entry: Entry, run: Callable[..., Result]
) -> None:
    name = entry.name
    assert cli.get_command(click.Context(cli), name) is not None
    done = run(name, "--help")
    assert done.exit_code == 0
    assert f"guestmemfs {name}" in done.output.partition("Examples:")[2]


def test_the_help_lists_every_command_and_every_exit_code(run: Callable[..., Result]) -> None:
    text = run("--help").output
    for entry in ENTRIES:
        assert entry.name in text
        assert entry.summary in text
    _, _, codes = text.partition("Exit codes:")
    for code in ExitCode:
        assert f"\n    {int(code)}  " in codes


def test_version(run: Callable[..., Result]) -> None:
    assert run("--version").output == f"guestmemfs, version {__version__}\n"


def test_an_error_is_a_line_and_a_hint_and_never_a_traceback(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise InstanceBusyError("somebody is there", hint="wait")

    monkeypatch.setattr(list_module.host, "require_root", fail)
    done = run("list")
    assert (done.exit_code, done.stdout) == (ExitCode.BUSY, "")
    assert done.stderr == "error: somebody is there\nhint: wait\n"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (DaemonError("it died"), ExitCode.DAEMON, "error: it died\n"),
        (PermissionError(13, "Permission denied", "/x"), ExitCode.FAILED, "error: /x: Permission denied\n"),
        (OSError("no number"), ExitCode.FAILED, "error: no number\n"),
        (ZeroDivisionError("a bug"), ExitCode.FAILED, "error: internal error: ZeroDivisionError: a bug\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (
            DaemonError("no file /a\x1b[31m\n\udcff"),
            ExitCode.DAEMON,
            "error: no file /a\\x1b[31m\\x0a\\xff\n",
        ),
    ],
)
def test_whatever_is_raised_becomes_a_line_and_an_exit_code(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> object:
        raise error

    assert guard(fail) == code
    said = capsys.readouterr().err
    assert said.startswith(message)
    assert "Traceback" not in said


def test_debug_shows_where_an_error_came_from(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    done = run("--debug", "status", "nobody")
    assert done.exit_code == ExitCode.NOT_FOUND
    assert "Traceback" in done.stderr
    assert done.stderr.index("Traceback") < done.stderr.index("error: no instance nobody")
    assert os.environ[DEBUG_VARIABLE] == "1"


def test_wrong_usage_says_where_the_right_one_is_explained(run: Callable[..., Result]) -> None:
    done = run("status")
    assert done.exit_code == ExitCode.USAGE
    assert done.stderr.splitlines()[-1] == "hint: `guestmemfs status --help` shows how"
    assert run("nonsense").exit_code == ExitCode.USAGE


def test_a_reader_that_hangs_up_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    code = "from guestmemfs_fuse.cli.main import main; main()"
    with os.fdopen(writer, "wb") as stdout:
        done = subprocess.run(
            [sys.executable, "-c", code, "--help"], stdout=stdout, stderr=subprocess.PIPE, timeout=60
        )
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("lisst",), "No such command 'lisst'. Did you mean 'list'?"),
        (("xyzzy",), "No such command 'xyzzy'."),
        (("vm",), "Missing command."),
        (("liveupdate",), "Missing command."),
        (("check-config", "nope"), "/etc/guestmemfs/nope.toml: No such file or directory"),
    ],
)
def test_a_beginners_mistake_is_one_line_and_a_hint(
    run: Callable[..., Result], words: tuple[str, ...], says: str
) -> None:
    done = run(*words)
    error, hint = done.stderr.splitlines()
    assert (done.exit_code, error) == (2, f"error: {says}")
    assert hint.startswith("hint: ")


def test_nothing_said_is_answered_with_everything(run: Callable[..., Result]) -> None:
    done = run()
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: guestmemfs") and "error" not in done.stderr.splitlines()[0]
