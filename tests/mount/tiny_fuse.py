"""The smallest passthrough filesystem: one file, served by hand.

It tells what the kernel shows of such a file's mappings, independently of the package's own FUSE code: what
`linux/users` relies on is checked against the kernel alone. Struct layouts: include/uapi/linux/fuse.h.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import threading
from contextlib import suppress
from types import TracebackType

from guestmemfs_fuse.linux import mount

NAME = "ram"
INO = 4242

LOOKUP, GETATTR, OPEN, RELEASE, INIT, OPENDIR = 1, 3, 14, 18, 26, 27
NO_REPLY = (2, 42)  # FORGET, BATCH_FORGET
ENOENT, ENOSYS = 2, 38
FOPEN_DIRECT_IO, FOPEN_PASSTHROUGH = 1, 1 << 7
INIT_EXT, PASSTHROUGH2 = 1 << 30, 1 << 5


class TinyFuse:
    """Serves `mountpoint`/ram, whose memory is the file behind backing_fd, from a thread."""

    def __init__(self, mountpoint: str, backing_fd: int) -> None:
        self.path = f"{mountpoint}/{NAME}"
        self._mountpoint = mountpoint
        self._backing_fd = backing_fd
        self._backing_id = 0
        self.requests: list[int] = []
        self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> TinyFuse:
        options = f"fd={self._fd},rootmode=40000,user_id=0,group_id=0"
        mount.mount("tiny", self._mountpoint, "fuse", mount.MS_NOSUID | mount.MS_NODEV, options)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        mount.umount(self._mountpoint, mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)
        self._thread.join(10)
        os.close(self._fd)
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        while True:
            try:
                request = os.read(self._fd, 1 << 17)
            except OSError:
                return  # ENODEV: unmounted, and the last mapping is gone
            opcode, unique, nodeid = struct.unpack_from("=IQQ", request, 4)
            self.requests.append(opcode)
            if opcode in NO_REPLY:
                continue
            reply = self._answer(opcode, nodeid, request[40:])
            error, body = (reply, b"") if isinstance(reply, int) else (0, reply)
            with suppress(FileNotFoundError):  # the connection ended, and the kernel waits no more
                os.write(self._fd, struct.pack("=IiQ", 16 + len(body), -error, unique) + body)

    def _answer(self, opcode: int, nodeid: int, body: bytes) -> bytes | int:
        if opcode == INIT:
            return struct.pack("=IIIIHHIIHHII24x", 7, 40, 0, INIT_EXT, 0, 0, 4096, 1, 0, 0, PASSTHROUGH2, 1)
        if opcode == LOOKUP:
            if body.rstrip(b"\0").decode() != NAME:
                return ENOENT
            return struct.pack("=QQQQII", INO, 0, 3600, 3600, 0, 0) + self._attributes(INO)
        if opcode == GETATTR:
            return struct.pack("=QII", 3600, 0, 0) + self._attributes(nodeid)
        if opcode == OPEN:
            if not self._backing_id:
                arg = bytearray(struct.pack("=iIQ", self._backing_fd, 0, 0))
                self._backing_id = fcntl.ioctl(self._fd, 0x4010E501, arg)
            return struct.pack("=QIi", 0, FOPEN_DIRECT_IO | FOPEN_PASSTHROUGH, self._backing_id)
        return b"" if opcode == RELEASE else ENOSYS

    def _attributes(self, nodeid: int) -> bytes:
        backing = os.fstat(self._backing_fd)
        mode = stat.S_IFREG | 0o600 if nodeid == INO else stat.S_IFDIR | 0o700
        size = backing.st_size if nodeid == INO else 0
        times = (0,) * 6
        return struct.pack("=QQQ3Q3I", nodeid, size, backing.st_blocks, *times) + struct.pack(
            "=7I", mode, 1, 0, 0, 0, 4096, 0
        )
