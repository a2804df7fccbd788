"""`liveupdate preserve` tells the daemon who carries: a session of our own, or systemd's; never both."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from guestmemfs_fuse.cli import unit_state
from guestmemfs_fuse.handover import launch
from guestmemfs_fuse.linux import liveupdate
from tests.unit.cli.fakes import FakeDaemon

Run = Callable[..., Result]
DONE = {"session": "guestmemfs-guests", "files": 2, "took_ms": 1.5}


@pytest.fixture(autouse=True)
def memfd(make_instance: Callable[..., Any], daemon: FakeDaemon) -> None:
    make_instance(kind="memfd")
    daemon.answers["preserve"] = DONE


def asked(daemon: FakeDaemon) -> dict[str, object]:
    (args,) = (args for operation, args in daemon.asked if operation != "ping")
    assert daemon.asked[-1] == ("preserve", args)
    return args


def test_with_a_holder_the_session_is_ours(
    run: Run, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "holder_pid", lambda _: 7)
    monkeypatch.setattr(unit_state, "why_not_carried", lambda _: pytest.fail("systemd has no part in it"))
    assert json.loads(run("liveupdate", "preserve", "guests", "--json").output) == DONE
    assert asked(daemon) == {"abort": False, "by_store": False}


def test_without_a_living_holder_nothing_is_preserved(run: Run, daemon: FakeDaemon) -> None:
    """It said that systemd kept the memory, and would not carry it."""
    daemon.serves(is_abandoned=True)
    refused = run("liveupdate", "preserve", "guests")
    assert refused.exit_code == 8 and "was killed" in refused.stderr
    assert "`guestmemfs restart guests`" in refused.stderr
    assert [operation for operation, _args in daemon.asked] == ["ping"]


def test_a_units_fd_store_is_carried_by_systemd(
    run: Run, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.serves()
    monkeypatch.setattr(unit_state, "why_not_carried", lambda _: None)
    monkeypatch.setattr(liveupdate, "DEVICE_PATH", "/dev/null")
    done = run("liveupdate", "preserve", "guests")
    assert done.output == "instance guests is frozen: `systemctl kexec` carries its 2 files\n"
    assert asked(daemon) == {"abort": False, "by_store": True}


@pytest.mark.parametrize(
    ("why", "device", "said"),
    [
        ("this is systemd 252", "/dev/null", "would not carry it: this is systemd 252"),
        (None, "/nowhere", "this kernel has no /nowhere"),
    ],
)
def test_a_unit_that_would_not_be_carried_is_not_preserved(
    run: Run,
    daemon: FakeDaemon,
    monkeypatch: pytest.MonkeyPatch,
    why: str | None,
    device: str,
    said: str,
) -> None:
    monkeypatch.setattr(unit_state, "why_not_carried", lambda _: why)
    monkeypatch.setattr(liveupdate, "DEVICE_PATH", device)
    daemon.serves()
    refused = run("liveupdate", "preserve", "guests")
    assert refused.exit_code == 4 and said in refused.stderr
    assert [operation for operation, _args in daemon.asked] == ["ping"]


def test_undoing_asks_nobody_else(run: Run, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_state, "why_not_carried", lambda _: "this is systemd 252")
    assert run("liveupdate", "preserve", "guests", "--abort").exit_code == 0
    assert asked(daemon) == {"abort": True, "by_store": False}
