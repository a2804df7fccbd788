"""On the PYTHONPATH of daemons under test: a live update orchestrator where the kernel has none.

Looks at $FAKE_LUO, a directory: `session` is a fifo whose write end stands for a session, so that whoever
reads it sees when the last copy is closed; `preserved` gets a line per preserved file. While `slow` is there,
preserving takes its time; while `cold` is there, a successor does not get warm.
"""

import errno
import os
import sys
import time
import types

HERE = os.environ["FAKE_LUO"]
LONGEST_S = 60.0


def wait_while(name: str) -> None:
    """Until somebody takes the file away."""
    deadline = time.monotonic() + LONGEST_S
    while os.path.exists(os.path.join(HERE, name)) and time.monotonic() < deadline:
        time.sleep(0.01)


def create_session(device_fd: int, name: str) -> int:
    """As linux/liveupdate."""
    return os.open(os.path.join(HERE, "session"), os.O_WRONLY | os.O_CLOEXEC)


def retrieve_session(device_fd: int, name: str) -> int:
    """As linux/liveupdate: nothing came through a kexec."""
    raise OSError(errno.ENOENT, "no such session")


def preserve_fd(session_fd: int, fd: int, token: int) -> None:
    """As linux/liveupdate."""
    with open(os.path.join(HERE, "preserved"), "a") as file:
        print(token, file=file)
    wait_while("slow")


fake = types.ModuleType("guestmemfs_fuse.linux.liveupdate")
fake.__dict__.update(
    DEVICE_PATH=os.devnull,
    open_device=lambda: os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC),
    create_session=create_session,
    retrieve_session=retrieve_session,
    preserve_fd=preserve_fd,
)
sys.modules[fake.__name__] = fake

if "handover" in os.environ.get("LISTEN_FDNAMES", "").split(":"):
    wait_while("cold")
