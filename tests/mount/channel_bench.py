"""A mounted channel with its server, for test_channel: starts servers, reads what they tell, cleans up."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from guestmemfs_fuse.fuse import device
from guestmemfs_fuse.linux import mount

WAIT_S = 60.0
SIZE_BYTES = 4 << 20

Event = dict[str, Any]


class Server:
    """One channel_server process."""

    def __init__(self, fuse_fd: int, backing_dir: Path, *options: str) -> None:
        argv = [sys.executable, "-m", "tests.mount.channel_server", str(fuse_fd), str(backing_dir), *options]
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[fuse_fd]
        )
        self.told: list[Event] = []
        self._pending = b""

    def wait_for(self, event: str) -> Event:
        """The next event of that kind that was not waited for yet."""
        deadline = time.monotonic() + WAIT_S
        while True:
            for told in self.told:
                if told["event"] == event:
                    self.told.remove(told)
                    return told
            self._read(deadline - time.monotonic(), f"no {event} among {self.told}")

    def _read(self, timeout_s: float, what: str) -> None:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], max(timeout_s, 0))
        assert ready, what
        chunk = os.read(self.process.stdout.fileno(), 1 << 16)
        assert chunk, f"the server ended; {what}"
        *lines, self._pending = (self._pending + chunk).split(b"\n")
        self.told += [json.loads(line) for line in lines]

    def command(self, text: str) -> None:
        assert self.process.stdin is not None
        os.write(self.process.stdin.fileno(), text.encode() + b"\n")

    def statistics(self) -> Event:
        self.command("statistics")
        return self.wait_for("statistics")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(WAIT_S)

    def close(self) -> None:
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class Bench:
    """A tmpfs for the backing files, a mounted connection that this process holds, and its servers."""

    def __init__(self, directory: Path) -> None:
        self.mountpoint = directory / "mnt"
        self.backing_dir = directory / "backing"
        self.ram = self.mountpoint / "ram"
        self.backing = self.backing_dir / "ram"
        self.servers: list[Server] = []
        self.fuse_fd = -1

    def start(self, *options: str) -> Server:
        server = Server(self.fuse_fd, self.backing_dir, *options)
        self.servers.append(server)
        return server

    def stop(self) -> None:
        for server in self.servers:
            server.close()


@contextlib.contextmanager
def bench(directory: Path) -> Iterator[Bench]:
    """Mounted, not served yet; at the end nothing is left, whatever hangs."""
    made = Bench(directory)
    made.mountpoint.mkdir()
    made.backing_dir.mkdir()
    with contextlib.ExitStack() as stack:
        mount.mount("none", str(made.backing_dir), "tmpfs", 0, "huge=always,size=64M,mode=0700")
        stack.callback(mount.umount, str(made.backing_dir), mount.MNT_DETACH)
        with made.backing.open("wb") as file:
            file.truncate(SIZE_BYTES)
        made.fuse_fd = device.open_device()
        # the last descriptor of the connection: closing it fails whatever still waits for an answer
        stack.callback(os.close, made.fuse_fd)
        device.mount_fuse(made.fuse_fd, str(made.mountpoint), source="channel")
        stack.callback(mount.umount, str(made.mountpoint), mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)
        stack.callback(made.stop)
        yield made
