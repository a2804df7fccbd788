"""A kernel with a live update orchestrator, as far as our files can tell, and an fd store beside it.

The kernel has sessions, files by token and a kexec. It behaves as kernel/liveupdate does (Linux 7.x): one
opener of the device, no session twice, no file from a session that is finished. `fail_at` makes the nth call
fail.
"""

from __future__ import annotations

import errno
import os


class FakeLuo:
    """See the module. Device and sessions are memfds, known by inode number: fd numbers are used again."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.fail_at = fail_at
        self.calls: list[str] = []
        self.outgoing: dict[str, dict[int, int]] = {}
        self.incoming: dict[str, dict[int, int]] = {}
        self.retrieved: set[str] = set()
        self.finished: set[str] = set()
        self._device = (-1, -1)
        self._names: dict[int, str] = {}

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.fail_at == len(self.calls):
            raise OSError(errno.ENOMEM, "as the test wants")

    def open_device(self) -> int:
        self._call("open_device")
        if _is_open(*self._device):
            raise OSError(errno.EBUSY, "the device is open")
        device_fd = os.memfd_create("device")
        self._device = (device_fd, os.fstat(device_fd).st_ino)
        return device_fd

    def _session(self, device_fd: int, name: str) -> int:
        assert device_fd == self._device[0] and _is_open(*self._device)
        session_fd = os.memfd_create(name)
        self._names[os.fstat(session_fd).st_ino] = name
        return session_fd

    def _name(self, session_fd: int) -> str:
        return self._names[os.fstat(session_fd).st_ino]

    def create_session(self, device_fd: int, name: str, /) -> int:
        self._call("create_session")
        if name in self.outgoing:
            raise OSError(errno.EEXIST, "there is such a session")
        self.outgoing[name] = {}
        return self._session(device_fd, name)

    def preserve_fd(self, session_fd: int, fd: int, token: int, /) -> None:
        self._call("preserve_fd")
        assert token not in self.outgoing[self._name(session_fd)]
        self.outgoing[self._name(session_fd)][token] = os.dup(fd)

    def kexec(self) -> None:
        """What was preserved arrives in the next kernel."""
        self.incoming, self.outgoing = self.outgoing, {}
        self.calls.clear()

    def retrieve_session(self, device_fd: int, name: str, /) -> int:
        self._call("retrieve_session")
        if name not in self.incoming:
            raise OSError(errno.ENOENT, "no such session")
        if name in self.retrieved:
            raise OSError(errno.EINVAL, "retrieved already")
        self.retrieved.add(name)
        return self._session(device_fd, name)

    def retrieve_fd(self, session_fd: int, token: int, /) -> int:
        self._call("retrieve_fd")
        files = {} if self._name(session_fd) in self.finished else self.incoming[self._name(session_fd)]
        if token not in files:
            raise OSError(errno.ENOENT, "no such token")
        return os.dup(files[token])

    def finish(self, session_fd: int, /) -> None:
        self._call("finish")
        self.finished.add(self._name(session_fd))


def _is_open(fd: int, ino: int) -> bool:
    try:
        return os.fstat(fd).st_ino == ino
    except OSError:
        return False


class FakeStore:
    """The fd store: copies of descriptors, by name."""

    present = True

    def __init__(self) -> None:
        self.fds: dict[str, list[int]] = {}

    def store(self, name: str, *fds: int) -> None:
        self.remove(name)
        self.fds[name] = [os.dup(fd) for fd in fds]

    def remove(self, name: str) -> None:
        for fd in self.fds.pop(name, []):
            os.close(fd)

    def barrier(self) -> None:
        pass

    def received(self) -> dict[str, list[int]]:
        """What the next process gets."""
        return {name: [os.dup(fd) for fd in fds] for name, fds in self.fds.items()}
