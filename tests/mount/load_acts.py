"""The half of a load worker that acts: one random change after the other, and the model of what they must do.

Every call is made once, and its answer is taken at its word. Called by load_worker, which says what for.
"""

from __future__ import annotations

import copy
import errno
import json
import mmap
import os
import random
import zlib
from collections.abc import Callable
from contextlib import suppress

from tests.mount.load_model import File, Model, problems

MIB = 1 << 20
MAX_NAMES = 24
MAX_WITH_MEMORY = 4
GONE = (errno.ENOTCONN, errno.ECONNABORTED, errno.ENODEV)


def pattern(seed: int, length: int) -> bytes:
    """Bytes that differ from page to page."""
    pages = (((seed << 20) + page).to_bytes(8, "little") * 512 for page in range(length // 4096))
    return b"".join(pages)


class Worker:
    """Does one random thing after the other."""

    def __init__(self, directory: str, seed: int) -> None:
        self.directory = directory
        self.dice = random.Random(seed)
        self.model = Model()
        self.kept: dict[int, tuple[int, mmap.mmap]] = {}
        self.next_name = 0
        self.done = 0
        os.mkdir(directory)

    # -- choosing -----------------------------------------------------------------------------------

    def path(self, name: str) -> str:
        return f"{self.directory}/{name}"

    def fresh(self) -> str:
        """A name that never was."""
        self.next_name += 1
        directories = [name for name in self.of_kind("dir") if "/" not in name]
        parent = self.dice.choice([*directories, ""]) if directories else ""
        return f"{parent}/n{self.next_name}" if parent else f"n{self.next_name}"

    def of_kind(self, kind: str) -> list[str]:
        return [name for name, number in self.model.names.items() if self.model.files[number].kind == kind]

    def some(self, kind: str = "file") -> str | None:
        names = self.of_kind(kind)
        return self.dice.choice(names) if names else None

    def with_memory(self) -> int:
        return sum(1 for each in self.model.files.values() if each.size and each.kind == "file")

    # -- acting -------------------------------------------------------------------------------------

    def step(self) -> None:
        """One call, or a few that belong together."""
        many = len(self.model.names) >= MAX_NAMES
        act = self.dice.choice([self.remove] if many and self.dice.random() < 0.5 else self.acts())
        act()
        self.done += 1

    def acts(self) -> list[Callable[[], None]]:
        return [
            self.create,
            self.create,
            self.create_nameless,
            self.make_directory,
            self.make_symlink,
            self.link,
            self.rename,
            self.rename,
            self.move_directory,
            self.remove,
            self.remove,
            self.resize,
            self.resize,
            self.chmod,
            self.set_times,
            self.set_xattr,
            self.remove_xattr,
            self.write_pattern,
            self.check_mapping,
            self.let_go,
            self.look,
        ]

    def call(self, change: Callable[[Model], None], make: Callable[[], object]) -> None:
        """Make a call; once it is acknowledged the model changes."""
        after = copy.deepcopy(self.model)
        change(after)
        try:
            make()
        except OSError as error:
            if error.errno in GONE:
                self.open_call(after)
                return
            raise
        self.model = after

    def open_call(self, after: Model) -> None:
        """Nobody answered: say so, wait until the mount is back, and find out which of both it is."""
        print(json.dumps({"disconnected": True}), flush=True)
        read_order()
        self.drop_connection(after)
        not_done = problems(self.directory, self.model)
        if not_done and (done := problems(self.directory, after)):
            raise AssertionError(f"neither done nor not done: {not_done} / {done}")
        if not_done:
            self.model = after

    def create(self) -> None:
        name, mode = self.fresh(), self.dice.choice((0o600, 0o640, 0o755))
        number = self.next_name

        def change(model: Model) -> None:
            model.files[number] = File(mode=mode)
            model.names[name] = number

        def make() -> None:
            os.close(os.open(self.path(name), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode))

        self.call(change, make)

    def create_nameless(self) -> None:
        """O_TMPFILE, and a name for it a moment later."""
        name = self.fresh()
        number = self.next_name

        def change(model: Model) -> None:
            model.files[number] = File(mode=0o600)
            model.names[name] = number

        def make() -> None:
            fd = os.open(self.directory, os.O_TMPFILE | os.O_RDWR, 0o600)
            try:
                # src_dir_fd is what makes Python use linkat(2), which can follow
                os.link(f"/proc/self/fd/{fd}", self.path(name), src_dir_fd=fd, follow_symlinks=True)
            finally:
                os.close(fd)

        self.call(change, make)

    def make_directory(self) -> None:
        if len(self.of_kind("dir")) > 4:
            return
        name = self.fresh()
        number = self.next_name

        def change(model: Model) -> None:
            model.files[number] = File("dir", mode=0o700)
            model.names[name] = number

        self.call(change, lambda: os.mkdir(self.path(name), 0o700))

    def make_symlink(self) -> None:
        name = self.fresh()
        number, target = self.next_name, "t" * self.dice.randrange(1, 200)

        def change(model: Model) -> None:
            model.files[number] = File("symlink", size=len(target), mode=0o777, target=target)
            model.names[name] = number

        self.call(change, lambda: os.symlink(target, self.path(name)))

    def link(self) -> None:
        old, new = self.some(), self.fresh()
        if old is None:
            return

        def change(model: Model) -> None:
            model.names[new] = model.names[old]

        self.call(change, lambda: os.link(self.path(old), self.path(new)))

    def rename(self) -> None:
        """To a fresh name, or over another file."""
        old = self.some()
        other = self.some()
        if old is None or other is None:
            return
        new = other if self.dice.random() < 0.3 and other != old else self.fresh()
        if new in self.model.names and self.model.names[new] == self.model.names[old]:
            return  # two names of one file: nothing happens

        def change(model: Model) -> None:
            replaced = model.names.get(new)
            model.names[new] = model.names.pop(old)
            self.drop(model, replaced)

        self.call(change, lambda: os.rename(self.path(old), self.path(new)))

    def move_directory(self) -> None:
        """A directory moves with all that is in it."""
        old = self.some("dir")
        if old is None:
            return
        self.next_name += 1
        new = f"m{self.next_name}"

        def change(model: Model) -> None:
            for name in list(model.names):
                if name == old or name.startswith(old + "/"):
                    model.names[new + name[len(old) :]] = model.names.pop(name)

        self.call(change, lambda: os.rename(self.path(old), self.path(new)))

    def drop(self, model: Model, number: int | None) -> None:
        """A name of it is gone; without names it is only known while we hold it."""
        if number is not None and number not in model.names.values() and number not in self.kept:
            del model.files[number]

    def remove(self) -> None:
        name = self.some(self.dice.choice(("file", "file", "file", "symlink", "dir")))
        if name is None:
            return
        if self.model.files[self.model.names[name]].kind == "dir":
            if any(each.startswith(name + "/") for each in self.model.names):
                return
            remove: Callable[[str], None] = os.rmdir
        else:
            remove = os.unlink

        def change(model: Model) -> None:
            self.drop(model, model.names.pop(name))

        self.call(change, lambda: remove(self.path(name)))

    def resize(self) -> None:
        name = self.some()
        if name is None:
            return
        number = self.model.names[name]
        held = self.model.files[number]
        if held.size == 0 and self.with_memory() >= MAX_WITH_MEMORY:
            return
        lowest = held.size if number in self.kept or held.crc is not None else 0
        size = max(lowest, self.dice.choice((0, 1, 4096, 2 * MIB, 2 * MIB + 1, 3 * MIB)))

        def change(model: Model) -> None:
            model.files[number].size = size
            model.files[number].mtime_ns = None
            if size != held.size:
                model.files[number].crc = None

        self.call(change, lambda: os.truncate(self.path(name), size))

    def chmod(self) -> None:
        name, mode = self.some(), self.dice.randrange(0o1000)
        if name is None:
            return

        def change(model: Model) -> None:
            model.files[model.names[name]].mode = mode

        self.call(change, lambda: os.chmod(self.path(name), mode))

    def set_times(self) -> None:
        name, time_ns = self.some(), self.dice.randrange(1 << 60)
        if name is None:
            return

        def change(model: Model) -> None:
            model.files[model.names[name]].mtime_ns = time_ns

        self.call(change, lambda: os.utime(self.path(name), ns=(0, time_ns)))

    def set_xattr(self) -> None:
        name, key = self.some(), f"user.k{self.dice.randrange(4)}"
        value = self.dice.randbytes(self.dice.choice((0, 5, 300, 9000)))
        if name is None:
            return
        exists = key in self.model.files[self.model.names[name]].xattrs
        flags = self.dice.choice((0, os.XATTR_REPLACE if exists else os.XATTR_CREATE))

        def change(model: Model) -> None:
            model.files[model.names[name]].xattrs[key] = value

        self.call(change, lambda: os.setxattr(self.path(name), key, value, flags))

    def remove_xattr(self) -> None:
        name = self.some()
        if name is None or not self.model.files[self.model.names[name]].xattrs:
            return
        key = self.dice.choice(sorted(self.model.files[self.model.names[name]].xattrs))

        def change(model: Model) -> None:
            del model.files[model.names[name]].xattrs[key]

        self.call(change, lambda: os.removexattr(self.path(name), key))

    def write_pattern(self) -> None:
        """Map a whole file, fill it, and perhaps keep it mapped (and open) from now on."""
        name = self.some()
        if name is None:
            return
        number = self.model.names[name]
        held = self.model.files[number]
        if held.size < 4096 or held.size % 4096 or number in self.kept:
            return
        try:
            fd = os.open(self.path(name), os.O_RDWR)
        except OSError as error:
            if error.errno not in GONE:
                raise
            self.open_call(self.model)
            return
        memory = mmap.mmap(fd, held.size)
        written = pattern(self.dice.randrange(1 << 30), held.size)
        memory[:] = written
        held.crc = zlib.crc32(written)
        if self.dice.random() < 0.5 and len(self.kept) < 3:
            self.kept[number] = (fd, memory)
        else:
            memory.close()
            os.close(fd)

    def check_mapping(self) -> None:
        """What is mapped is what was written, whatever happened to the daemon."""
        for number, (fd, memory) in self.kept.items():
            held = self.model.files[number]
            if held.crc is not None and len(memory) == held.size:
                assert zlib.crc32(memory) == held.crc, f"mapping of {number} changed"
            with suppress(OSError):
                if os.fstat(fd).st_size != held.size:
                    raise AssertionError(f"{number} has {os.fstat(fd).st_size} bytes, not {held.size}")

    def let_go(self) -> None:
        """Unmap and close something that was kept, perhaps the last that knew of it."""
        if not self.kept or self.dice.random() < 0.5:
            return
        number = self.dice.choice(sorted(self.kept))
        fd, memory = self.kept.pop(number)
        memory.close()
        os.close(fd)
        if number not in self.model.names.values():
            del self.model.files[number]

    def look(self) -> None:
        """Lookups that find, and that do not."""
        name = self.some()
        try:
            if name is not None:
                os.stat(self.path(name))
            os.stat(self.path("never-made"))
        except FileNotFoundError as error:
            assert error.filename.endswith("never-made"), error
        except OSError as error:
            if error.errno not in GONE:
                raise
            self.open_call(self.model)

    def drop_connection(self, after: Model) -> None:
        """Files of a mount that is gone can only be closed; what is mapped of them stays as it is."""
        self.check_mapping()
        for number, (fd, memory) in self.kept.items():
            memory.close()
            with suppress(OSError):
                os.close(fd)
            for model in (self.model, after):
                if number not in model.names.values():
                    model.files.pop(number, None)
        self.kept.clear()


def read_order() -> str:
    """One line of stdin and not a byte more: two lines at once would leave nothing for select to see."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(0, 1)):
        line += byte
    return line.decode()
