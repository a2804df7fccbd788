"""On the PYTHONPATH of daemons under test: a live update orchestrator where the kernel has none.

Looks at $FAKE_LUO, a directory: `session` is a fifo whose write end stands for a session, so that whoever
reads it sees when the last copy is closed. `outgoing` gets a copy of every preserved file, by token; renamed
to `incoming` (the kexec) they are there to be retrieved, until `finish` removes them. While `slow` is there,
preserving and retrieving take their time; while `cold` is there, a successor does not get warm; while
`broken` is there, the files whose tokens it has cannot be retrieved.
"""

import errno
import os
import shutil
import sys
import time
import types

HERE = os.environ["FAKE_LUO"]
OUTGOING, INCOMING = os.path.join(HERE, "outgoing"), os.path.join(HERE, "incoming")
LONGEST_S = 60.0


def wait_while(name: str) -> None:
    """Until somebody takes the file away."""
    deadline = time.monotonic() + LONGEST_S
    while os.path.exists(os.path.join(HERE, name)) and time.monotonic() < deadline:
        time.sleep(0.01)


def error(number: int) -> OSError:
    """As the kernel has it."""
    return OSError(number, os.strerror(number))


def open_session() -> int:
    """Its end is seen by who reads the fifo."""
    return os.open(os.path.join(HERE, "session"), os.O_WRONLY | os.O_CLOEXEC)


def create_session(device_fd: int, name: str) -> int:
    """As linux/liveupdate."""
    shutil.rmtree(OUTGOING, ignore_errors=True)
    os.mkdir(OUTGOING)
    return open_session()


def retrieve_session(device_fd: int, name: str) -> int:
    """As linux/liveupdate: once."""
    if not os.path.exists(INCOMING):
        raise error(errno.ENOENT)
    try:
        os.mkdir(os.path.join(INCOMING, "retrieved"))
    except FileExistsError:
        raise error(errno.EINVAL) from None
    return open_session()


def preserve_fd(session_fd: int, fd: int, token: int) -> None:
    """As linux/liveupdate."""
    shutil.copyfile(f"/proc/self/fd/{fd}", os.path.join(OUTGOING, str(token)))
    wait_while("slow")


def retrieve_fd(session_fd: int, token: int) -> int:
    """As linux/liveupdate."""
    wait_while("slow")
    try:
        with open(os.path.join(HERE, "broken")) as broken:
            if str(token) in broken.read().split():
                raise error(errno.ENOMEM)
    except FileNotFoundError:
        pass
    fd = os.memfd_create("", os.MFD_CLOEXEC)
    shutil.copyfile(os.path.join(INCOMING, str(token)), f"/proc/self/fd/{fd}")
    return fd


fake = types.ModuleType("guestmemfs_fuse.linux.liveupdate")
fake.__dict__.update(
    DEVICE_PATH=os.devnull,
    open_device=lambda: os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC),
    create_session=create_session,
    retrieve_session=retrieve_session,
    preserve_fd=preserve_fd,
    retrieve_fd=retrieve_fd,
    finish=lambda session_fd: shutil.rmtree(INCOMING),
)
sys.modules[fake.__name__] = fake

if "handover" in os.environ.get("LISTEN_FDNAMES", "").split(":"):
    wait_while("cold")
