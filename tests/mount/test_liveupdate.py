"""A preserved instance keeps its session whoever dies or is replaced, and lets go of it when told to.

With a fake kernel (fake_luo/sitecustomize.py), so that it runs everywhere; tests/vm/test_kexec_luo.py has a
real one, and the kexec.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from guestmemfs_fuse.control import client
from guestmemfs_fuse.core.errors import GuestmemfsError, InstanceBusyError
from tests.cli import Guestmemfs, Instance
from tests.guest.measure import checksum, write_pattern
from tests.guest.rig import wait_until
from tests.mount.load_crew import serving_pid

FAKE = Path(__file__).with_name("fake_luo")
SOON_S = 30.0


class Luo:
    """The fake orchestrator, seen from outside."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        os.mkfifo(directory / "session")
        self._reader = os.open(directory / "session", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._reader)

    @property
    def is_closed(self) -> bool:
        """Whether there was a session and its last copy is closed: the kernel has let go of all files."""
        poll = select.poll()
        poll.register(self._reader, 0)
        return bool(poll.poll(0))

    def preserved(self) -> list[Path]:
        """Copies of the files in the session."""
        return list((self.directory / "outgoing").glob("[0-9]*"))

    @contextmanager
    def there(self, name: str, text: str = "") -> Iterator[None]:
        """`slow`, `cold` or `broken`, see the fake."""
        (self.directory / name).write_text(text)
        try:
            yield
        finally:
            (self.directory / name).unlink()


@pytest.fixture
def luo(tmp_path: Path) -> Iterator[Luo]:
    (tmp_path / "luo").mkdir()
    made = Luo(tmp_path / "luo")
    yield made
    made.close()


@pytest.fixture
def memfd(guestmemfs: Guestmemfs, luo: Luo) -> Instance:
    guestmemfs.environment.update(PYTHONPATH=str(FAKE), FAKE_LUO=str(luo.directory))
    instance = guestmemfs.mount("mem", "--region", "memfd")
    (instance.mountpoint / "ram").touch()
    os.truncate(instance.mountpoint / "ram", 4 << 20)
    return instance


@pytest.fixture
def aside() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def soon(holds: Callable[[], bool]) -> None:
    assert wait_until(holds, SOON_S)


def ask(instance: Instance, operation: str, **args: object) -> Any:
    return client.call(str(instance.state_dir), operation, args, timeout_s=SOON_S)


def change_fails(instance: Instance) -> bool:
    try:
        os.truncate(instance.mountpoint / "ram", 2 << 20)
    except OSError:
        return True
    os.truncate(instance.mountpoint / "ram", 4 << 20)
    return False


def is_warming(instance: Instance, pid: int) -> bool:
    """Whether the daemon has started its successor."""
    return bool(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


@contextmanager
def restarting(instance: Instance, luo: Luo, aside: ThreadPoolExecutor) -> Iterator[None]:
    """The body runs while the successor of the daemon gets warm; afterwards the successor serves."""
    pid = instance.daemon_pid
    with luo.there("cold"):
        done: Future[Any] = aside.submit(ask, instance, "restart")
        soon(lambda: is_warming(instance, pid))
        yield
    assert done.result()["successor_pid"] == serving_pid(instance.state_dir, not_pid=pid)


def test_a_session_outlives_the_daemon_and_its_replacement(memfd: Instance, luo: Luo) -> None:
    memfd.cli.run("liveupdate", "preserve", memfd.name)
    assert len(luo.preserved()) == 2  # manifest and ram
    os.kill(memfd.daemon_pid, signal.SIGKILL)
    assert change_fails(memfd)
    memfd.cli.run("restart", memfd.name)
    assert change_fails(memfd) and memfd.cli.run("thaw", memfd.name, check=False).returncode == 5
    os.kill(memfd.daemon_pid, signal.SIGKILL)
    assert change_fails(memfd) and not luo.is_closed
    memfd.cli.run("liveupdate", "preserve", memfd.name, "--abort")
    assert luo.is_closed and not change_fails(memfd)


def test_regression_preserved_while_the_successor_gets_warm(
    memfd: Instance, luo: Luo, aside: ThreadPoolExecutor
) -> None:
    """The successor knew nothing of the session: it thawed, and nobody could undo anything."""
    with restarting(memfd, luo, aside):
        ask(memfd, "preserve", abort=False)
    with pytest.raises(InstanceBusyError):
        ask(memfd, "thaw")
    ask(memfd, "preserve", abort=True)
    assert luo.is_closed and not change_fails(memfd)


def test_regression_aborted_while_the_successor_gets_warm(
    memfd: Instance, luo: Luo, aside: ThreadPoolExecutor
) -> None:
    """The successor had a copy of the session: the kernel would not have let go of the files."""
    ask(memfd, "preserve", abort=False)
    with restarting(memfd, luo, aside):
        ask(memfd, "preserve", abort=True)
        soon(lambda: luo.is_closed)  # until its exec the successor has a copy of all there is
    assert luo.is_closed and not change_fails(memfd)


def test_a_hand_over_waits_for_what_is_being_preserved(
    memfd: Instance, luo: Luo, aside: ThreadPoolExecutor
) -> None:
    pid = memfd.daemon_pid
    with luo.there("slow"):
        preserved: Future[Any] = aside.submit(ask, memfd, "preserve", abort=False)
        soon(lambda: bool(luo.preserved()))
        assert ask(memfd, "restart")["successor_pid"] != pid
        assert Path(f"/proc/{pid}").exists() and not preserved.done()
    assert preserved.result()["files"] == 1
    serving_pid(memfd.state_dir, not_pid=pid)
    assert change_fails(memfd) and not luo.is_closed


def test_umount_keeps_the_session_and_destroy_ends_it(memfd: Instance, luo: Luo) -> None:
    ask(memfd, "preserve", abort=False)
    memfd.umount()
    assert not luo.is_closed, "a kexec would still bring everything through"
    memfd.remount()
    assert change_fails(memfd) and memfd.status()["state"] == "frozen"
    memfd.umount()
    memfd.cli.run("destroy", memfd.name, "--yes")
    soon(lambda: luo.is_closed)


def test_what_cannot_be_preserved_says_why(guestmemfs: Guestmemfs, luo: Luo) -> None:
    tmpfs = guestmemfs.mount("tmp")
    with pytest.raises(GuestmemfsError, match="tmpfs"):
        ask(tmpfs, "preserve", abort=False)
    assert tmpfs.status()["state"] == "serving"


# -- after the kexec ---------------------------------------------------------------------------------------


def kexec(instance: Instance, luo: Luo) -> None:
    """What is left of an instance after a kexec: nothing but what is in its session."""
    status = instance.status()
    for pid in (status["holder_pid"], status["daemon_pid"]):
        os.kill(pid, signal.SIGKILL)
    soon(lambda: luo.is_closed)
    subprocess.run(["umount", "-l", instance.mountpoint], check=True)
    shutil.rmtree(instance.state_dir)
    (luo.directory / "outgoing").rename(luo.directory / "incoming")


@pytest.fixture
def through(memfd: Instance, luo: Luo) -> Instance:
    """An instance that was preserved, in the next kernel."""
    os.chmod(memfd.mountpoint / "ram", 0o640)
    pattern = write_pattern(memfd.mountpoint / "pattern", 6)
    (luo.directory / "checksum").write_text(pattern)
    memfd.cli.run("pin", memfd.mountpoint / "pattern")
    ask(memfd, "preserve", abort=False)
    kexec(memfd, luo)
    return memfd


def assert_all_there(instance: Instance, luo: Luo) -> None:
    instance.remount()
    assert checksum(instance.mountpoint / "pattern") == (luo.directory / "checksum").read_text()
    ram = (instance.mountpoint / "ram").stat()
    assert (ram.st_mode & 0o7777, ram.st_size, ram.st_blocks * 512) == (0o640, 4 << 20, 4 << 20)
    status = instance.status()
    assert status["state"] == "serving" and status["region"]["used_bytes"] == 10 << 20
    assert instance.cli.run("fsck", instance.name).returncode == 0
    assert luo.is_closed and not (luo.directory / "incoming").exists()


def test_mount_brings_everything_back(through: Instance, luo: Luo) -> None:
    assert_all_there(through, luo)
    with pytest.raises(OSError, match="busy"):
        (through.mountpoint / "pattern").unlink()


def test_retrieve_brings_it_back_unmounted(through: Instance, luo: Luo) -> None:
    through.cli.run("liveupdate", "retrieve", through.name)
    assert through.status()["state"] == "stopped"
    again = through.cli.run("liveupdate", "retrieve", through.name, check=False)
    assert again.returncode != 0 and "no live update session" in again.stderr
    assert_all_there(through, luo)


def test_a_file_that_cannot_be_retrieved_now_holds_the_session_open(through: Instance, luo: Luo) -> None:
    with luo.there("broken", "2 3"):
        for _ in range(2):
            done = through.cli.run("mount", through.mountpoint, "--name", through.name, check=False)
            assert done.returncode != 0 and "Cannot allocate memory" in done.stderr, done.stderr
            assert not luo.is_closed and (luo.directory / "incoming").exists()
    assert_all_there(through, luo)


def test_what_will_never_be_retrieved_can_be_given_up(through: Instance, luo: Luo) -> None:
    with luo.there("broken", "2"):
        done = through.cli.run("mount", through.mountpoint, "--name", through.name, check=False)
    assert "destroy mem --yes --force" in done.stderr, "how to give it up is said"
    assert "broken" in through.cli.run("list").stdout
    through.cli.run("destroy", through.name, "--yes", "--force")
    soon(lambda: luo.is_closed)
