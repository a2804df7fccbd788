"""Looks at a guest and its mount many times a second while something is done to what is underneath them."""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path
from types import TracebackType

from guestmemfs_fuse.linux import mountinfo
from tests.guest.rig import Guest

INTERVAL_S = 0.005


class Watch:
    """A thread that notes when the guest counted, and whether the mount was there each time it looked."""

    def __init__(self, guest: Guest, mountpoint: Path) -> None:
        self.looks = 0
        self.absences = 0
        self._guest = guest
        self._mountpoint = str(mountpoint)
        self._counted_at_ns: list[int] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    @property
    def counted(self) -> int:
        """How many times the guest counted while it was watched."""
        return len(self._counted_at_ns)

    @property
    def longest_pause_ns(self) -> int:
        """The longest time between two counts; its own rhythm is a little over 100 ms."""
        times = self._counted_at_ns
        return max((after - before for before, after in itertools.pairwise(times)), default=0)

    def _look(self) -> None:
        size_bytes = self._size_bytes()
        while not self._over.wait(INTERVAL_S):
            self.looks += 1
            if mountinfo.find_mountpoint(self._mountpoint) is None:
                self.absences += 1
            now_bytes = self._size_bytes()
            if now_bytes != size_bytes:
                size_bytes = now_bytes
                self._counted_at_ns.append(time.monotonic_ns())

    def _size_bytes(self) -> int:
        return self._guest.serial_log.stat().st_size
