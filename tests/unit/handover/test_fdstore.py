"""The daemon's half of the fd store protocol, against a socket of our own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestmemfs_fuse.core.errors import DaemonError, OutOfMemoryError
from guestmemfs_fuse.handover import fdnames
from guestmemfs_fuse.handover.fdstore import (
    FIRST_FD,
    Notifier,
    format_message,
    parse_listen_fds,
    received_fds,
    socket_address,
    watchdog_interval_s,
)


class Ear:
    """The receiving end; a message is (text, number of descriptors)."""

    def __init__(self, address: str | bytes) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(5)
        self.socket.bind(address)

    def hear(self) -> tuple[str, list[int]]:
        data, fds, _flags, _sender = socket.recv_fds(self.socket, 4096, 300)
        return data.decode(), fds

    def text(self) -> str:
        text, fds = self.hear()
        assert fds == []
        return text


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[Ear]:
    ear = Ear(str(tmp_path / "notify"))
    yield ear
    ear.socket.close()


@pytest.fixture
def notifier(ear: Ear) -> Notifier:
    return Notifier.from_environment({"NOTIFY_SOCKET": ear.socket.getsockname()})


# -- received descriptors --------------------------------------------------------------------------------


def test_descriptors_are_numbered_from_three_in_the_order_of_their_names() -> None:
    env = {"LISTEN_PID": "42", "LISTEN_FDS": "3", "LISTEN_FDNAMES": "fuse:region-1:region-1"}
    assert parse_listen_fds(env, 42) == [("fuse", 3), ("region-1", 4), ("region-1", 5)]


def test_descriptors_meant_for_another_process_are_none_of_ours() -> None:
    assert parse_listen_fds({"LISTEN_PID": "41", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "fuse"}, 42) == []
    assert parse_listen_fds({"LISTEN_FDS": "1"}, 42) == []
    assert parse_listen_fds({}, 42) == []


def test_descriptors_without_names_are_unknown() -> None:
    assert parse_listen_fds({"LISTEN_PID": "7", "LISTEN_FDS": "2"}, 7) == [("unknown", 3), ("unknown", 4)]


@pytest.mark.parametrize(
    ("count", "names"), [("2", "one"), ("0", "one"), ("x", "one"), ("-1", "a"), ("", "")]
)
def test_contradicting_variables_are_refused(count: str, names: str) -> None:
    with pytest.raises(DaemonError, match="LISTEN_FD"):
        parse_listen_fds({"LISTEN_PID": "7", "LISTEN_FDS": count, "LISTEN_FDNAMES": names}, 7)


def test_received_descriptors_are_close_on_exec_and_leave_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reader, writer = os.pipe()
    monkeypatch.setattr("guestmemfs_fuse.handover.fdstore.FIRST_FD", reader)
    os.set_inheritable(reader, True)
    env = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "fuse", "HOME": "/"}
    try:
        assert received_fds(env) == {"fuse": [reader]}
        assert env == {"HOME": "/"}
        assert not os.get_inheritable(reader)
    finally:
        os.close(reader)
        os.close(writer)


def test_an_announced_descriptor_that_is_not_open_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    monkeypatch.setattr("guestmemfs_fuse.handover.fdstore.FIRST_FD", reader)
    env = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "fuse"}
    with pytest.raises(DaemonError, match=r"\(fuse\) was announced but is not open"):
        received_fds(env)


def test_the_watchdog_interval_is_only_for_the_named_process() -> None:
    assert watchdog_interval_s({"WATCHDOG_USEC": "1500000"}, 7) == 1.5
    assert watchdog_interval_s({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "7"}, 7) == 1.5
    assert watchdog_interval_s({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "8"}, 7) is None
    assert watchdog_interval_s({"WATCHDOG_USEC": "0"}, 7) is None
    assert watchdog_interval_s({}, 7) is None


# -- messages --------------------------------------------------------------------------------------------


def test_messages_are_spelled_as_in_sd_notify(ear: Ear, notifier: Notifier) -> None:
    notifier.ready("two\nlines")
    assert ear.text() == "READY=1\nSTATUS=two lines"
    notifier.main_pid(4711)
    assert ear.text() == "MAINPID=4711"
    assert notifier.stopping()
    assert ear.text() == "STOPPING=1"
    assert notifier.watchdog()
    assert ear.text() == "WATCHDOG=1"
    notifier.remove("region-7")
    assert ear.text() == "FDSTOREREMOVE=1\nFDNAME=region-7"
    assert notifier.statistics() == {"sent": 5, "failed": 0}


def test_a_failure_carries_class_and_hint(ear: Ear, notifier: Notifier) -> None:
    assert notifier.failed(OutOfMemoryError("4 GiB wanted, 1 GiB free", hint="ask for less"))
    assert ear.text() == (
        "STATUS=4 GiB wanted, 1 GiB free\nX_GUESTMEMFS_ERROR=OutOfMemoryError\nX_GUESTMEMFS_HINT=ask for less"
    )


def test_stored_descriptors_travel_as_duplicates(ear: Ear, notifier: Notifier, tmp_path: Path) -> None:
    with open(tmp_path / "a", "w") as a, open(tmp_path / "b", "w") as b:
        notifier.store("region-1", a.fileno(), b.fileno())
        text, fds = ear.hear()
        assert text == "FDSTORE=1\nFDPOLL=0\nFDNAME=region-1"
        try:
            assert len(fds) == 2
            assert os.path.samestat(os.fstat(fds[0]), os.fstat(a.fileno()))
            assert os.path.samestat(os.fstat(fds[1]), os.fstat(b.fileno()))
        finally:
            for fd in fds:
                os.close(fd)


def test_the_barrier_returns_when_the_store_has_closed_its_end(ear: Ear, notifier: Notifier) -> None:
    heard: list[str] = []

    def store() -> None:
        text, fds = ear.hear()
        heard.append(text)
        os.close(fds[0])

    thread = threading.Thread(target=store)
    thread.start()
    notifier.barrier(timeout_s=5)
    thread.join()
    assert heard == ["BARRIER=1"]


def test_the_barrier_gives_up_on_a_store_that_does_not_read(ear: Ear, notifier: Notifier) -> None:
    with pytest.raises(DaemonError, match="did not answer within"):
        notifier.barrier(timeout_s=0.02)


def test_no_descriptor_is_left_behind_by_sending(ear: Ear, notifier: Notifier) -> None:
    before = os.listdir("/proc/self/fd")
    notifier.store("fuse", 0)
    for fd in ear.hear()[1]:
        os.close(fd)
    with pytest.raises(DaemonError):
        notifier.barrier(timeout_s=0.01)
    for fd in ear.hear()[1]:
        os.close(fd)
    assert os.listdir("/proc/self/fd") == before


def test_an_abstract_socket_is_reached() -> None:
    name = f"guestmemfs-test-{os.getpid()}"
    ear = Ear(b"\0" + name.encode())
    try:
        Notifier(f"@{name}").ready("here")
        assert ear.text() == "READY=1\nSTATUS=here"
    finally:
        ear.socket.close()


def test_without_a_store_everything_is_silent() -> None:
    nobody = Notifier.from_environment({})
    assert not nobody.present
    nobody.ready()
    nobody.store("fuse", 0)
    nobody.barrier()
    nobody.main_pid(1)
    assert nobody.watchdog()
    assert nobody.statistics()["failed"] == 0


def test_a_store_that_was_killed_is_told_from_one_that_listens(
    ear: Ear, notifier: Notifier, tmp_path: Path
) -> None:
    assert notifier.is_heard()
    left = tmp_path / "left"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as gone:
        gone.bind(str(left))
    assert left.exists()
    assert not Notifier(str(left)).is_heard()
    assert not Notifier(str(tmp_path / "never")).is_heard()
    assert not Notifier(None).is_heard()


def test_a_store_that_is_gone_is_an_error_only_where_survival_depends_on_it(tmp_path: Path) -> None:
    gone = Notifier(str(tmp_path / "nobody"))
    assert not gone.watchdog()
    assert not gone.ready()
    assert not gone.main_pid(1)
    with pytest.raises(DaemonError, match="cannot be reached"):
        gone.barrier()
    with pytest.raises(DaemonError, match="cannot be reached"):
        gone.store("fuse", 0)
    with pytest.raises(DaemonError, match="cannot be reached"):
        gone.remove("fuse")


def test_a_full_queue_never_blocks_what_only_informs(ear: Ear, notifier: Notifier) -> None:
    while notifier.watchdog():
        pass
    assert notifier.statistics()["failed"] == 1


@pytest.mark.parametrize("name", ["", "a:b", "ä", "tab\t", "x" * 256])
def test_names_that_systemd_refuses_are_refused_here(notifier: Notifier, name: str) -> None:
    assert not fdnames.valid(name)
    with pytest.raises(ValueError, match="cannot"):
        notifier.store(name, 0)


@pytest.mark.parametrize("address", ["relative", "vsock:2:1", "/", "@"])
def test_other_kinds_of_address_are_refused(address: str) -> None:
    with pytest.raises(DaemonError, match="NOTIFY_SOCKET"):
        socket_address(address)


@given(st.lists(st.tuples(st.sampled_from(["STATUS", "X_A"]), st.text())))
def test_a_message_has_one_line_per_field(fields: list[tuple[str, str]]) -> None:
    try:
        message = format_message(fields)
    except UnicodeEncodeError:
        return
    assert len(message.split(b"\n")) == max(1, len(fields))


def test_a_descriptor_is_passed_on_to_the_program_this_process_becomes() -> None:
    code = (
        "import os, sys\n"
        "from guestmemfs_fuse.handover import fdstore\n"
        "os.environ['LISTEN_PID'] = str(os.getpid())\n"
        "fd = os.memfd_create('made'); os.write(fd, b'made')\n"
        "fdstore.pass_on(os.environ, 'second', fd)\n"
        "os.execv(sys.executable, [sys.executable, '-c', sys.argv[1]])\n"
    )
    then = (
        "import os\n"
        "from guestmemfs_fuse.handover import fdstore\n"
        "print({name: [os.pread(fd, 9, 0) for fd in fds] for name, fds in fdstore.received_fds().items()})\n"
    )
    fd = os.memfd_create("first")
    os.write(fd, b"given")
    path, listen = os.pathsep.join(sys.path), {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "first"}
    done = subprocess.run(
        ["bash", "-c", f'exec {FIRST_FD}<&{fd} {fd}<&-; exec "$@"', "-", sys.executable, "-c", code, then],
        env={**os.environ, **listen, "PYTHONPATH": path},
        pass_fds=[fd],
        capture_output=True,
        text=True,
    )
    os.close(fd)
    assert done.stdout == "{'first': [b'given'], 'second': [b'made']}\n", done.stderr
