"""`list`, `status` and `map`: what they show of instances in every condition."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from guestmemfs_fuse.cli import offline
from guestmemfs_fuse.core.errors import (
    DaemonError,
    ExitCode,
    GuestmemfsError,
    InvalidCallError,
    IsDirectoryError,
    UnknownTargetError,
)
from guestmemfs_fuse.core.state import new_state
from guestmemfs_fuse.handover.last_words import LastWords
from guestmemfs_fuse.metadata.instance import Instance
from tests.unit.cli.fakes import DEAD, LOST, MIB, RESTARTING, SERVING, STOPPED, FakeDaemon

Run = Callable[..., Result]
RunJson = Callable[..., Any]
See = Callable[..., None]

FILE = {
    "path": "/vm\n1",
    "ino": 2,
    "size_bytes": 32 * MIB,
    "allocated_bytes": 32 * MIB,
    "huge_bytes": 16 * MIB,
    "huge_fraction": 0.5,
    "open_count": 1,
    "mapped_by": [{"pid": 7, "comm": "qemu", "bytes": 32 * MIB}],
    "pinned": True,
    "saved_guest": None,
    "nlink": 1,
}
STATUS: dict[str, Any] = {
    "name": "guests",
    "mountpoint": "/mnt/guests",
    "state": "serving",
    "daemon_pid": 41,
    "holder_pid": 40,
    "generation": 3,
    "region": {
        "kind": "tmpfs",
        "size_bytes": 64 * MIB,
        "block_bytes": 2 * MIB,
        "used_bytes": 32 * MIB,
        "free_bytes": 32 * MIB,
    },
    "huge": {"bytes": 16 * MIB, "fraction": 0.5},
    "files": [FILE],
    "counters": {},
    "journal": {},
}


@pytest.fixture(autouse=True)
def instance(make_instance: Callable[..., Instance]) -> Instance:
    return make_instance()


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch, see: See) -> None:
    """A stopped memfd instance, whose region nobody but its holder can reach."""
    see(STOPPED)
    state = new_state(region_bytes=64 * MIB, block_bytes=2 * MIB, now_ns=1)
    state.generation = 9

    @contextlib.contextmanager
    def opened(instance: Instance) -> Iterator[offline.Offline]:
        yield offline.Offline(state, None)

    monkeypatch.setattr(offline, "opened", opened)


# -- list ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "ping", "state", "condition", "advice"),
    [
        (SERVING, "serving", "serving", "serving", None),
        (SERVING, "frozen", "frozen", "frozen", "thaw guests"),
        (SERVING, DaemonError("silence"), "serving", "silent", "restart guests"),
        (replace(SERVING, mount=None), DaemonError("silence"), "serving", "silent", "kill -9"),
        (SERVING, None, "stopped", "restarting", "holder is starting another"),
        (RESTARTING, None, "stopped", "restarting", "holder is starting another"),
        (RESTARTING, "serving", "serving", "serving", None),
        (STOPPED, None, "stopped", "stopped", None),
        (DEAD, None, "stopped", "dead-mount", "mount /mnt/guests"),
        (replace(DEAD, last_words=LastWords("it crashed")), None, "stopped", "dead-mount", "it crashed"),
        (LOST, None, "stopped", "lost", "its memory is gone"),
    ],
)
def test_every_condition_has_its_words_and_advice(
    seen: Any,
    ping: Any,
    state: str,
    condition: str,
    advice: str | None,
    run: Run,
    run_json: RunJson,
    see: See,
    daemon: FakeDaemon,
) -> None:
    see(seen)
    if isinstance(ping, str):
        daemon.serves(state=ping)
    elif ping is not None:
        daemon.answers["ping"] = ping
    (row,) = run_json("list")
    assert (row["name"], row["state"], row["condition"]) == ("guests", state, condition)
    assert row["region"] == {"kind": "tmpfs", "size_bytes": 64 * MIB, "block_bytes": 2 * MIB}
    assert row["daemon_pid"] == (41 if isinstance(ping, str) else None)
    assert (row["advice"] is None) if advice is None else (advice in row["advice"])
    done = run("list")
    assert condition in done.stdout
    assert bool(done.stderr) == (advice is not None), "advice goes to stderr"


def test_broken_instances_are_listed_with_their_problem(
    run_json: RunJson, instance: Instance, daemon: FakeDaemon
) -> None:
    Path(instance.paths.config).write_text("nonsense")
    (row,) = run_json("list")
    assert (row["condition"], row["mountpoint"]) == ("broken", None)
    assert instance.paths.config in row["advice"]


def test_no_instances_is_an_empty_list(run: Run, run_json: RunJson, instance: Instance) -> None:
    Path(instance.paths.config).unlink()
    Path(instance.paths.state_dir).rmdir()
    assert run_json("list") == []
    done = run("list")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "no instances" in done.stderr


# -- status ----------------------------------------------------------------------------------------------


def test_a_serving_daemon_speaks_for_itself(
    run: Run, run_json: RunJson, see: See, daemon: FakeDaemon, instance: Instance
) -> None:
    see(SERVING)
    daemon.serves()
    daemon.answers["status"] = lambda args: dict(STATUS)
    shown = run_json("status", "guests")
    assert {key: shown[key] for key in STATUS} == STATUS
    assert shown["condition"] == "serving"
    assert (shown["last_words"], shown["advice"]) == (None, None)
    text = run("status", "guests").stdout
    for part in ("32 MiB used", "16 MiB (50.0%", "/vm\\x0a1 pinned", "qemu[7]", "pid 41, holder pid 40"):
        assert part in text


def test_a_stopped_instance_is_read_from_its_metadata(run: Run, run_json: RunJson, stopped: None) -> None:
    shown = run_json("status", "guests")
    assert (shown["state"], shown["daemon_pid"], shown["generation"]) == ("stopped", None, 9)
    assert shown["huge"] == {"bytes": None, "fraction": None}
    assert set(STATUS) <= set(shown)
    assert "not measured while stopped" in run("status", "guests").stdout


def test_last_words_of_a_daemon_that_was_given_up_are_shown(
    run: Run, run_json: RunJson, see: See, stopped: None
) -> None:
    words = LastWords("given up after 6 deaths", "DaemonError", "no memory", tail="the end")
    see(replace(DEAD, last_words=words))
    shown = run_json("status", "guests")
    assert "error: DaemonError: no memory" in shown["last_words"]
    assert "`guestmemfs mount /mnt/guests`" in shown["advice"]
    assert "the end" in run("status", "guests").stderr


def test_a_silent_daemon_and_lost_memory_are_errors_with_advice(
    run: Run, see: See, daemon: FakeDaemon
) -> None:
    see(SERVING)
    daemon.answers["ping"] = DaemonError("silence")
    done = run("status", "guests")
    assert done.exit_code == ExitCode.DAEMON
    assert "guestmemfs restart guests" in done.stderr
    see(LOST)
    done = run("status", "guests")
    assert done.exit_code == ExitCode.FAILED
    assert "has no memory any more" in done.stderr


def test_an_unknown_target_is_not_found(run: Run) -> None:
    done = run("status", "nobody")
    assert done.exit_code == ExitCode.NOT_FOUND
    assert "guestmemfs list" in done.stderr


# -- map -------------------------------------------------------------------------------------------------


def test_map_asks_for_the_path_inside_the_mount(
    run: Run, run_json: RunJson, see: See, daemon: FakeDaemon
) -> None:
    see(SERVING)
    daemon.serves()
    extents = [{"offset_bytes": 0, "length_bytes": 32 * MIB, "region_offset_bytes": None}]
    daemon.answers["map"] = {**FILE, "extents": extents}
    assert run_json("map", "/mnt/guests/d/vm1") == {**FILE, "extents": extents}
    assert daemon.asked[-1] == ("map", {"path": "/d/vm1"})
    text = run("map", "/mnt/guests/d/vm1").stdout
    for part in ("32 MiB allocated", "16 MiB (50.0%)", "qemu[7] 32 MiB", "own file"):
        assert part in text


def test_map_of_extents_shows_where_they_are_in_the_region(run: Run, see: See, daemon: FakeDaemon) -> None:
    see(SERVING)
    daemon.serves()
    extents = [{"offset_bytes": 0, "length_bytes": 2 * MIB, "region_offset_bytes": 6 * MIB}]
    daemon.answers["map"] = {**FILE, "extents": extents}
    assert run("map", "/mnt/guests/vm1").stdout.splitlines()[-1].split() == ["0", "B", "2", "MiB", "6", "MiB"]


def test_map_outside_of_any_mount_or_of_a_missing_file_is_not_found(
    run: Run, see: See, daemon: FakeDaemon
) -> None:
    assert run("map", "/etc/passwd").exit_code == ExitCode.NOT_FOUND
    see(SERVING)
    daemon.serves()
    daemon.answers["map"] = UnknownTargetError("no file /vm1")
    assert run("map", "/mnt/guests/vm1").exit_code == ExitCode.NOT_FOUND


def test_map_of_a_stopped_memfd_region_says_what_to_do(run: Run, stopped: None) -> None:
    done = run("map", "/mnt/guests/vm1")
    assert done.exit_code == ExitCode.FAILED
    assert "`guestmemfs mount /mnt/guests` first" in done.stderr


# -- pin, freeze -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "pinned"), [("pin", True), ("unpin", False)])
def test_pin_and_unpin(command: str, pinned: bool, run: Run, daemon: FakeDaemon) -> None:
    daemon.answers["pin"] = {"pinned": pinned}
    done = run(command, "/mnt/guests/vm1")
    assert (done.exit_code, done.output) == (0, "")
    assert daemon.asked == [("pin", {"path": "/vm1", "pinned": pinned})]


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (IsDirectoryError(), "error: /mnt/guests is a directory\nhint: only files are pinned\n"),
        (
            InvalidCallError("only regular files have a size"),
            "error: /mnt/guests is no regular file\nhint: only regular files have memory\n",
        ),
    ],
    ids=["directory", "symlink"],
)
def test_regression_what_is_no_regular_file_is_not_pinned_and_that_is_said(
    refusal: GuestmemfsError, said: str, run: Run, daemon: FakeDaemon
) -> None:
    daemon.answers["pin"] = refusal
    done = run("pin", "/mnt/guests")
    assert (done.exit_code, done.stderr) == (ExitCode.USAGE, said)


@pytest.mark.parametrize("command", ["freeze", "thaw"])
def test_freeze_and_thaw(command: str, run: Run, daemon: FakeDaemon) -> None:
    daemon.serves()
    daemon.answers[command] = {"frozen": command == "freeze"}
    done = run(command, "/mnt/guests")
    assert (done.exit_code, done.output) == (0, "")
    assert daemon.asked == [("ping", {}), (command, {})]


@pytest.mark.parametrize(
    "arguments",
    [("freeze", "guests"), ("thaw", "guests"), ("resize-file", "/mnt/guests/vm1", "--size", "2M")],
)
def test_regression_what_may_take_long_does_not_wait_for_a_daemon_that_hangs(
    arguments: tuple[str, ...], run: Run, daemon: FakeDaemon
) -> None:
    """They have no limit, and waited for ever."""
    daemon.answers["ping"] = DaemonError("the daemon did not answer ping within 5 s")
    done = run(*arguments)
    assert done.exit_code == ExitCode.DAEMON
    said = "error: the daemon did not answer ping within 5 s\nhint: `guestmemfs restart guests`\n"
    assert (done.stderr, daemon.asked) == (said, [("ping", {})])


@pytest.mark.parametrize("arguments", [("pin", "/mnt/guests/vm1"), ("freeze", "guests")])
def test_without_a_daemon_they_say_so(arguments: tuple[str, ...], run: Run, daemon: FakeDaemon) -> None:
    done = run(*arguments)
    assert done.exit_code == ExitCode.DAEMON
    assert "not running" in done.stderr


def test_resize_file(run: Run, daemon: FakeDaemon) -> None:
    daemon.serves()
    daemon.answers["resize_file"] = {"size_bytes": 0}
    assert run("resize-file", "/mnt/guests/vm1", "--size", "0").exit_code == 0
    assert run("resize-file", "/mnt/guests/vm1", "--size", "2M", "--force").exit_code == 0
    assert [(op, args) for op, args in daemon.asked if op != "ping"] == [
        ("resize_file", {"path": "/vm1", "size_bytes": 0, "force": False}),
        ("resize_file", {"path": "/vm1", "size_bytes": 2 * MIB, "force": True}),
    ]
    assert run("resize-file", "/mnt/guests/vm1").exit_code == ExitCode.USAGE
