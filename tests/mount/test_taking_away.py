"""`destroy` and `umount` of an instance that is just coming up: its mount command was killed in the middle.

The start is held at one point, for as long as the test wants, by a sitecustomize of its own: so each phase is
met for certain, however fast or slow the host is.
"""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from guestmemfs_fuse.cli import sight
from guestmemfs_fuse.handover import launch
from guestmemfs_fuse.linux import process
from tests.cli import Guestmemfs
from tests.guest.rig import wait_until

PATIENCE_S = 30.0

HOLD = """
import os, sys, time

def hold():
    open({here!r} + "/reached", "w").close()
    while not os.path.exists({here!r} + "/go"):
        time.sleep(0.005)

def held(function, before=False, after=False):
    def wrapper(*args, **kwargs):
        if before:
            hold()
        result = function(*args, **kwargs)
        if after:
            hold()
        return result
    return wrapper

is_daemon = "guestmemfs_fuse.daemon" in sys.orig_argv
"""

PHASES = {
    "before the holder": """
if not is_daemon:
    from guestmemfs_fuse.handover import launch
    launch._become_holder = held(launch._become_holder, before=True)
""",
    "before the lock": """
if is_daemon:
    hold()
""",
    "before the mount": """
if is_daemon:
    from guestmemfs_fuse.fuse import connection
    connection.connect = held(connection.connect, before=True)
""",
    "before it serves": """
if is_daemon:
    from guestmemfs_fuse.fuse import connection
    connection.connect = held(connection.connect, after=True)
""",
    "before it fails": """
if is_daemon:
    from guestmemfs_fuse.fuse import connection
    connection.connect = held(lambda *_: sys.exit("broken on purpose"), before=True)
""",
}
"""Where a start can stand still, and what makes it do so."""


@dataclass(frozen=True, slots=True)
class HeldStart:
    """A start that stands still, without the command that asked for it."""

    guestmemfs: Guestmemfs
    here: Path

    @property
    def state_dir(self) -> str:
        return str(self.guestmemfs.run_dir / "gm")

    def let_go(self) -> None:
        (self.here / "go").touch()

    def meanwhile(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command that has to wait for the start; returns once it waits."""
        child = self.guestmemfs.start(*arguments)
        assert wait_until(lambda: has_looked(child.pid, self.state_dir), PATIENCE_S)
        assert child.poll() is None, child.communicate()
        return child


def has_looked(pid: int, state_dir: str) -> bool:
    """Whether the command is done importing: it has the directory open, which is how it claims it."""
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            if os.readlink(f"/proc/{pid}/fd/{name}") == state_dir:
                return True
        except FileNotFoundError:
            pass
    return False


def done(child: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit status, and what it said."""
    output, errors = child.communicate(timeout=PATIENCE_S * 2)
    return child.returncode, output + errors


@pytest.fixture
def held(
    request: pytest.FixtureRequest, guestmemfs: Guestmemfs, monkeypatch: pytest.MonkeyPatch
) -> HeldStart:
    """A start in the phase of the parameter, its `mount` killed."""
    here, mountpoint = guestmemfs.directory / "held", guestmemfs.directory / "mnt-gm"
    here.mkdir()
    mountpoint.mkdir()
    (here / "sitecustomize.py").write_text(HOLD.format(here=str(here)) + PHASES[request.param])
    with monkeypatch.context() as context:
        context.setenv("PYTHONPATH", str(here))
        child = guestmemfs.start("mount", mountpoint, "--name", "gm", "--size", "32M")
        assert wait_until((here / "reached").exists, PATIENCE_S), child.poll()
    os.kill(child.pid, signal.SIGKILL)
    with child:  # what it printed goes nowhere: the held one may still have the other end
        child.wait(PATIENCE_S)
    return HeldStart(guestmemfs, here)


@pytest.mark.parametrize("held", PHASES, indirect=True)
def test_destroy_waits_for_a_start_that_is_under_way(held: HeldStart) -> None:
    """That nothing is left, no process and no mount, is what the fixtures look at."""
    child = held.meanwhile("destroy", "gm", "--yes")
    held.let_go()
    assert done(child) == (0, "instance gm is gone, its memory given back\n")
    assert os.listdir(held.guestmemfs.run_dir) == []


@pytest.mark.parametrize("held", ["before the lock"], indirect=True)
def test_umount_waits_for_a_start_that_is_under_way(held: HeldStart) -> None:
    child = held.meanwhile("umount", "gm")
    held.let_go()
    assert done(child) == (0, "instance gm is unmounted; its region stays until `guestmemfs destroy`\n")
    assert held.guestmemfs.json("status", "gm")["state"] == "stopped"
    assert launch.holder_pid(held.state_dir) is None


@pytest.mark.parametrize("held", ["before the mount"], indirect=True)
def test_destroy_by_force_ends_a_start_that_stands_still(held: HeldStart) -> None:
    holder = launch.holder_pid(held.state_dir)
    assert holder is not None
    daemons = process.children(holder)
    held.guestmemfs.run("destroy", "gm", "--yes", "--force")
    assert not [pid for pid in (holder, *daemons) if process.is_alive(pid)]
    assert os.listdir(held.guestmemfs.run_dir) == []


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (["destroy", "gm", "--yes"], (0, "instance gm is gone, its memory given back\n")),
        (["umount", "gm"], (0, "instance gm is unmounted; its region stays until `guestmemfs destroy`\n")),
        (["mount", "MOUNTPOINT"], (5, "is already mounted at MOUNTPOINT and serves")),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_regression_a_command_that_becomes_the_daemon_is_waited_for(
    guestmemfs: Guestmemfs, command: list[str], answer: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a unit does. It had no claim between exec and lock: `destroy` took its state directory away."""
    here, mountpoint = guestmemfs.directory / "held", guestmemfs.directory / "mnt-gm"
    here.mkdir()
    mountpoint.mkdir()
    (here / "sitecustomize.py").write_text(HOLD.format(here=str(here)) + PHASES["before the lock"])
    with monkeypatch.context() as context:
        context.setenv("PYTHONPATH", str(here))
        unit = guestmemfs.start("mount", mountpoint, "--name", "gm", "--size", "32M", "--foreground")
        assert wait_until((here / "reached").exists, PATIENCE_S), unit.poll()
    held = HeldStart(guestmemfs, here)
    child = held.meanwhile(*(word.replace("MOUNTPOINT", str(mountpoint)) for word in command))
    held.let_go()
    status, said = done(child)
    assert status == answer[0] and answer[1].replace("MOUNTPOINT", str(mountpoint)) in said
    if status != 0:
        guestmemfs.run("umount", "gm")
    assert done(unit)[0] == 0


@pytest.mark.parametrize(
    ("region", "command"),
    [("tmpfs", ["umount", "gm"]), ("memfd", ["destroy", "gm", "--yes"])],
    ids=["umount", "destroy"],
)
def test_a_daemon_between_two_lives_is_waited_for(
    guestmemfs: Guestmemfs, region: str, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = guestmemfs.directory / "held"
    here.mkdir()
    (here / "sitecustomize.py").write_text(HOLD.format(here=str(here)) + PHASES["before the lock"])
    (here / "go").touch()
    with monkeypatch.context() as context:
        context.setenv("PYTHONPATH", str(here))
        instance = guestmemfs.mount("gm", "--region", region)
    for name in ("go", "reached"):
        (here / name).unlink()
    os.kill(instance.daemon_pid, signal.SIGKILL)
    assert wait_until((here / "reached").exists, PATIENCE_S)
    assert not sight.is_locked(str(instance.state_dir / "lock"))
    held = HeldStart(guestmemfs, here)
    child = held.meanwhile(*command)
    held.let_go()
    status, said = done(child)
    assert status == 0, said
    if command[0] == "umount":
        assert guestmemfs.json("status", "gm")["state"] == "stopped"
    else:
        assert os.listdir(guestmemfs.run_dir) == []
