"""The holder's parts, each alone: policy, last words, log, kept descriptors, messages, pid file."""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestmemfs_fuse.handover import last_words, pid_file
from guestmemfs_fuse.handover.daemon_log import TAIL_LINES, DaemonLog
from guestmemfs_fuse.handover.fd_keeper import FdKeeper
from guestmemfs_fuse.handover.fdstore import Notifier, format_message
from guestmemfs_fuse.handover.last_words import LastWords
from guestmemfs_fuse.handover.notify_socket import NotifySocket, parse_message
from guestmemfs_fuse.handover.pid_file import PidFile
from guestmemfs_fuse.handover.restart_policy import DELAYS_S, MAX_KILLED, RestartPolicy
from guestmemfs_fuse.handover.spawn import EXEC_FAILED, listen_environment, spawn

# -- restart policy --------------------------------------------------------------------------------------


def test_the_first_restart_is_immediate_and_the_sixth_death_in_a_row_is_the_last() -> None:
    policy = RestartPolicy()
    assert [policy.died(float(now)) for now in range(6)] == [*DELAYS_S, None]
    assert DELAYS_S[0] == 0
    assert len(DELAYS_S) == 5
    assert policy.deaths == 6


def test_deaths_outside_the_window_do_not_count() -> None:
    policy = RestartPolicy()
    assert [policy.died(now * 31.0) for now in range(20)] == [0.0] * 20


def test_a_serving_daemon_that_is_killed_is_back_at_once_and_does_not_count() -> None:
    policy = RestartPolicy()
    assert {policy.died(now * 0.1, killed=True) for now in range(MAX_KILLED)} == {0.0}
    assert policy.died(10.0) == 0
    assert policy.died(10.1) == DELAYS_S[1]
    assert policy.died(10.2, killed=True) is None


def test_somebody_who_asks_for_a_start_gets_all_tries_again() -> None:
    policy = RestartPolicy()
    while policy.died(1.0) is not None:
        pass
    policy.forget()
    assert policy.died(2.0) == 0


# -- last words ------------------------------------------------------------------------------------------

one_line = st.text(st.characters(codec="utf-8", exclude_characters="\n"))


@given(one_line, st.sampled_from(["", "OutOfMemoryError"]), one_line, one_line, st.text())
def test_last_words_are_read_as_they_were_written(
    reason: str, class_name: str, message: str, hint: str, tail: str
) -> None:
    words = LastWords(reason, class_name, message if class_name else "", hint, tail)
    again = last_words.parse(str(words))
    assert again == words
    assert (again.reason, again.message, again.hint, again.tail) == (reason, words.message, hint, tail)


def test_newlines_inside_a_message_cannot_forge_another_line() -> None:
    again = last_words.parse(str(LastWords("died\nhint: lie", "UsageError", "a\n\nb", "c\nerror: d")))
    assert (again.reason, again.message, again.hint) == ("died hint: lie", "a  b", "c error: d")


@given(st.text())
def test_any_text_can_be_read_as_last_words(text: str) -> None:
    last_words.parse(text)


def test_regression_the_last_line_is_none_of_a_drawn_frame() -> None:
    drawn = (
        "  +-+---- 1 ----\n    | Traceback (most recent call last):\n    | OSError: no\n    +------------\n"
    )
    assert last_words.last_line(drawn) == "OSError: no"
    assert last_words.last_line("ImportError: x\n\n") == "ImportError: x"
    assert last_words.last_line("") == ""


# -- the log ---------------------------------------------------------------------------------------------


def test_the_log_grows_and_keeps_the_last_lines_in_memory(tmp_path: Path) -> None:
    log = DaemonLog(str(tmp_path / "log"))
    text = "".join(f"line {number}\n" for number in range(100))
    log.append(text[:37].encode())
    log.append(text[37:].encode() + b"unfinished")
    assert (tmp_path / "log").read_text() == text + "unfinished"
    assert log.tail().split("\n") == [*(f"line {n}" for n in range(101 - TAIL_LINES, 100)), "unfinished"]
    log.note("of the holder")
    assert "of the holder" not in log.tail()
    log.new_daemon()
    assert log.tail() == ""


def test_the_log_is_bounded_on_disk_and_in_memory(tmp_path: Path) -> None:
    log = DaemonLog(str(tmp_path / "log"), rotate_bytes=1000)
    for _ in range(101):
        log.append(b"x" * 300)
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1"]
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 2 * 1300
    assert len(log.tail()) <= 1000


def test_a_log_that_cannot_be_written_costs_nothing_but_lines(tmp_path: Path) -> None:
    log = DaemonLog(str(tmp_path / "missing" / "log"))
    log.append(b"still here\n")
    assert log.tail() == "still here"


def test_draining_takes_what_is_there_and_does_not_wait(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    log = DaemonLog(str(tmp_path / "log"))
    os.write(writer, b"one\n")
    log.drain(reader)
    log.drain(reader)
    os.close(writer)
    log.drain(reader)
    os.close(reader)
    assert log.tail() == "one"


# -- kept descriptors --------------------------------------------------------------------------------------


@pytest.fixture
def keeper() -> Iterator[FdKeeper]:
    keeper = FdKeeper()
    yield keeper
    keeper.clear()


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_descriptors_are_kept_in_order_and_closed_by_name(keeper: FdKeeper) -> None:
    a, b, c = (os.memfd_create(name) for name in "abc")
    keeper.store("region-1", [a, b])
    keeper.store("fuse", [c])
    assert keeper.all() == [("region-1", a), ("region-1", b), ("fuse", c)]
    keeper.remove("region-1")
    assert keeper.all() == [("fuse", c)]
    assert [is_open(fd) for fd in (a, b, c)] == [False, False, True]
    keeper.clear()
    assert len(keeper) == 0
    assert not is_open(c)


def test_the_same_file_under_the_same_name_is_kept_once(keeper: FdKeeper) -> None:
    a = os.memfd_create("a")
    again, elsewhere = os.dup(a), os.dup(a)
    keeper.store("region-1", [a])
    keeper.store("region-1", [again])
    keeper.store("region-2", [elsewhere])
    assert keeper.all() == [("region-1", again), ("region-2", elsewhere)]
    assert not is_open(a)


# -- messages ----------------------------------------------------------------------------------------------

keys = st.sampled_from(["READY", "STATUS", "FDNAME", "X_GUESTMEMFS_HINT"])


@given(st.dictionaries(keys, one_line.filter(lambda text: "\0" not in text)))
def test_what_the_daemon_formats_is_what_the_holder_reads(fields: dict[str, str]) -> None:
    assert parse_message(format_message(fields.items())) == fields


@given(st.binary())
def test_any_bytes_are_a_message_of_some_kind(data: bytes) -> None:
    assert all(key for key in parse_message(data))


def test_lines_that_are_no_fields_are_left_out() -> None:
    assert parse_message(b"READY=1\nnonsense\n=x\nSTATUS=a=b\n") == {"READY": "1", "STATUS": "a=b"}


@pytest.mark.parametrize("depth", [1, 3])
def test_messages_arrive_with_descriptors_also_below_a_long_path(tmp_path: Path, depth: int) -> None:
    directory = tmp_path.joinpath(*["d" * 60] * depth)
    directory.mkdir(parents=True)
    ear = NotifySocket(str(directory / "notify.sock"))
    assert len(ear.address) < 108
    assert (directory / "notify.sock").stat().st_mode & 0o777 == 0o600
    notifier = Notifier(ear.address)
    notifier.store("fuse", 0, 1)
    notifier.ready()
    heard = ear.receive()
    assert heard is not None
    message, fds = heard
    assert message == {"FDSTORE": "1", "FDPOLL": "0", "FDNAME": "fuse"}
    assert len(fds) == 2
    assert not any(os.get_inheritable(fd) for fd in fds)
    for fd in fds:
        os.close(fd)
    assert ear.receive() == ({"READY": "1", "STATUS": "serving"}, [])
    assert ear.receive() is None
    ear.unlink()
    ear.unlink()


def test_a_message_from_another_user_is_not_heard_and_its_descriptors_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ear = NotifySocket(str(tmp_path / "notify.sock"))
    notifier = Notifier(ear.address)
    notifier.store("fuse", 0)
    before = len(os.listdir("/proc/self/fd"))
    if os.geteuid() == 0:
        credentials = struct.pack("3i", os.getpid(), 65534, 65534)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as liar:
            ancillary = [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, credentials)]
            ear.receive()
            liar.sendmsg([b"FDSTOREREMOVE=1"], ancillary, 0, str(tmp_path / "notify.sock"))
    else:
        monkeypatch.setattr("os.geteuid", lambda: 65533)
    assert ear.receive() is None
    assert len(os.listdir("/proc/self/fd")) <= before + 1


# -- the pid file ------------------------------------------------------------------------------------------


def run_child(code: str, *arguments: str) -> str:
    """Run code in another process; what it printed."""
    reader, writer = os.pipe()
    argv = [sys.executable, "-c", code, *arguments]
    pid = spawn(argv, {**os.environ, "PYTHONPATH": ":".join(sys.path)}, [], (0, writer, 2))
    os.close(writer)
    with open(reader) as pipe:
        printed = pipe.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return printed.strip()


OWNER = "import sys; from guestmemfs_fuse.handover import pid_file; print(pid_file.owner(sys.argv[1]))"
TAKE = "import sys; from guestmemfs_fuse.handover import pid_file; pid_file.PidFile(sys.argv[1])"


def test_others_learn_the_owner_while_it_lives_and_not_afterwards(tmp_path: Path) -> None:
    path = str(tmp_path / "holder.pid")
    assert pid_file.owner(path) is None
    run_child(TAKE, path)
    assert Path(path).exists()
    assert pid_file.owner(path) is None
    ours = PidFile(path)
    assert run_child(OWNER, path) == str(os.getpid())
    refused = TAKE.replace("; pid_file.PidFile(sys.argv[1])", "\ntry: pid_file.PidFile(sys.argv[1])\n")
    refused += "except BlockingIOError as error: print(error.filename)"
    assert run_child(refused, path) == path
    # Last, because opening the file here is what its owner must never do.
    assert Path(path).read_text() == f"{os.getpid()}\n"
    ours.remove()
    assert not Path(path).exists()


def test_a_pid_file_that_another_replaced_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "holder.pid"
    ours = PidFile(str(path))
    path.unlink()
    path.write_text("another's")
    ours.remove()
    assert path.read_text() == "another's"


# -- spawning ----------------------------------------------------------------------------------------------


def test_the_environment_names_descriptors_for_one_process() -> None:
    env = {"A": "1", "LISTEN_FDS": "9", "LISTEN_PIDFDID": "3"}
    assert listen_environment(env, ["fuse", "x"], 42) == {
        "A": "1",
        "LISTEN_PID": "42",
        "LISTEN_FDS": "2",
        "LISTEN_FDNAMES": "fuse:x",
    }
    assert listen_environment(env, [], 42) == {"A": "1"}


SHOW = """
import os, signal, sys
from guestmemfs_fuse.handover.fdstore import received_fds
fds = received_fds()
names = {name: [os.pread(fd, 9, 0).decode() for fd in found] for name, found in fds.items()}
open_fds = sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1]
print(names, open_fds, os.getcwd(), signal.pthread_sigmask(signal.SIG_BLOCK, []), file=sys.stderr)
"""


def test_a_child_has_exactly_the_given_descriptors_wherever_they_were(tmp_path: Path) -> None:
    """Sources that stand on each other's target numbers are the interesting case."""
    given_fds = [(f"fd-{index}", os.memfd_create("x")) for index in range(5)][::-1]
    for index, (_name, fd) in enumerate(given_fds):
        os.write(fd, f"content{index}".encode())
    null = os.open(os.devnull, os.O_RDWR)
    reader, writer = os.pipe()
    before = sorted(os.listdir("/proc/self/fd"))
    env = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    pid = spawn([sys.executable, "-c", SHOW], env, given_fds, (null, null, writer))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert sorted(os.listdir("/proc/self/fd")) == before
    shown = os.read(reader, 1 << 16).decode()
    names = {name: [f"content{index}"] for index, (name, _fd) in enumerate(given_fds)}
    assert shown == f"{names} {list(range(8))} / set()\n"
    for fd in (null, reader, writer, *(fd for _name, fd in given_fds)):
        os.close(fd)


def test_a_command_that_cannot_be_executed_says_so() -> None:
    reader, writer = os.pipe()
    pid = spawn(["/nowhere"], {}, [], (0, 1, writer))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == EXEC_FAILED
    assert b"cannot execute /nowhere: [Errno 2] No such file" in os.read(reader, 1000)
    os.close(reader)
    os.close(writer)
