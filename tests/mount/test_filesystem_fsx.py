"""What fsx would do if it could only map: random stores, cuts, growth and holes against plain bytes.

Each step is done to the file and to a bytearray; then all bytes, and the size, must be the same. The
seeds are fixed; GUESTMEMFS_FSX_STEPS makes the runs longer.
"""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Iterator

import pytest

from tests.mount.filesystem import KEEP, MIB, PUNCH, Mounted, mounted
from tests.mount.posix.tree import Tree

STEPS = int(os.environ.get("GUESTMEMFS_FSX_STEPS", "60"))
LONGEST = 5 * MIB


@pytest.fixture(scope="module")
def fs() -> Iterator[Mounted]:
    with mounted("fsx") as made:
        yield made


class Fsx:
    """A file of the mount, and what must be in it."""

    def __init__(self, tree: Tree, seed: int) -> None:
        self.tree = tree
        self.dice = random.Random(seed)
        self.bytes = bytearray()
        tree.mknod("f")

    def offset(self, most: int) -> int:
        """Somewhere, often at a page or block, or right beside one."""
        at = self.dice.randrange(most + 1)
        if self.dice.random() < 0.6:
            unit = self.dice.choice([4096, 2 * MIB])
            at = at // unit * unit + self.dice.choice([-1, 0, 0, 1])
        return max(0, min(at, most))

    def store(self) -> str:
        if not self.bytes:
            return "nothing to store into"
        start = self.offset(len(self.bytes) - 1)
        data = self.dice.randbytes(min(self.dice.choice([1, 100, 4096, 10_000]), len(self.bytes) - start))
        self.tree.store("f", start, data)
        self.bytes[start : start + len(data)] = data
        return f"store {len(data)} at {start}"

    def store_behind_the_end(self) -> str:
        """A huge mapping reaches behind the end, but what is stored there is not the file's."""
        size = len(self.bytes)
        room = -(-size // 4096) * 4096 - size
        if room:
            self.tree.store_anyway("f", size, b"\xee" * min(room, 500))
        return f"store behind {size}"

    def truncate(self) -> str:
        size = self.offset(LONGEST)
        self.tree.truncate("f", size)
        self._resize(size)
        return f"truncate to {size}"

    def allocate(self) -> str:
        start, mode = self.offset(LONGEST - 1), self.dice.choice([0, KEEP])
        length = self.dice.randrange(1, LONGEST - start + 1)
        self.tree.fallocates("f", mode, start, length)
        if mode == 0 and start + length > len(self.bytes):
            self._resize(start + length)
        return f"fallocate {mode} {start}+{length}"

    def punch(self) -> str:
        start = self.offset(LONGEST - 1)
        length = self.dice.choice([1, 5000, 4096, MIB, 2 * MIB])
        self.tree.fallocates("f", PUNCH, start, length)
        end = min(len(self.bytes), start + length)
        self.bytes[start:end] = bytes(max(0, end - start))
        return f"punch {start}+{length}"

    def _resize(self, size: int) -> None:
        del self.bytes[size:]
        self.bytes.extend(bytes(size - len(self.bytes)))

    def step(self) -> str:
        steps = [self.store, self.store, self.store_behind_the_end, self.truncate, self.allocate, self.punch]
        return self.dice.choice(steps)()

    def seen(self) -> tuple[int, int]:
        return self.tree.stat("f").st_size, self.tree.checksum("f")

    def expected(self) -> tuple[int, int]:
        return len(self.bytes), zlib.crc32(self.bytes)


@pytest.mark.parametrize("seed", range(4))
def test_random_stores_cuts_growth_and_holes(fs: Mounted, seed: int) -> None:
    with fs.tree() as t:
        fsx = Fsx(t, seed)
        done: list[str] = []
        for _ in range(STEPS):
            done.append(fsx.step())
            assert fsx.seen() == fsx.expected(), "\n".join(done)


def test_random_steps_with_a_restart_and_a_remount_between_them(fs: Mounted) -> None:
    with fs.tree() as t:
        fsx = Fsx(t, 99)
        for _ in range(3):
            for _ in range(10):
                fsx.step()
            fs.run("restart", fs.instance.name)
            assert fsx.seen() == fsx.expected()
