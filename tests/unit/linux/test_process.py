"""Process attributes."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from guestmemfs_fuse.linux import process


def test_peer_of_a_socket_pair_is_this_process() -> None:
    left, right = socket.socketpair()
    with left, right:
        assert process.peer(left) == (os.getpid(), os.getuid())


def test_name_is_cut_to_15_bytes() -> None:
    code = (
        "from guestmemfs_fuse.linux import process; process.set_name('guestmemfs-daemon');"
        "print(open('/proc/self/comm').read(), end='')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "guestmemfs-daem\n"


def test_subreaper_gets_the_orphans() -> None:
    code = """
import os
from guestmemfs_fuse.linux import process
process.set_child_subreaper()
middle = os.fork()
if middle == 0:
    if os.fork() == 0:
        os._exit(7)
    os._exit(0)
statuses = sorted(os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(2))
print(statuses)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[0, 7]\n"


def test_life_and_death_of_a_child() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert process.is_alive(child.pid)
        pidfd = os.pidfd_open(child.pid)
        os.kill(child.pid, signal.SIGKILL)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
        os.close(pidfd)
        assert not process.is_alive(child.pid), "a zombie is not alive"
    finally:
        child.communicate()
    assert not process.is_alive(child.pid)


def test_a_process_lives_until_the_last_of_its_threads_has_ended(tmp_path: Path) -> None:
    """Two thirds of those that were killed were called dead before they had let go of anything."""
    code = """
import fcntl, sys, threading
fcntl.flock(sys.stdin, fcntl.LOCK_EX)
for _ in range(4):
    threading.Thread(target=threading.Event().wait).start()
print(flush=True)
"""
    lock_path = tmp_path / "lock"
    lock_path.touch()
    for _ in range(10):
        with lock_path.open() as lock:
            child = subprocess.Popen([sys.executable, "-c", code], stdin=lock, stdout=subprocess.PIPE)
        with lock_path.open() as lock, child:
            assert child.stdout is not None and child.stdout.readline() == b"\n"
            child.kill()
            while process.is_alive(child.pid):
                pass
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_tracing_leaves_no_child() -> None:
    before = set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())
    process.trace_a_child()
    assert set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()) == before
