"""A metadata directory in memory, and wrappers that crash or fail at a chosen step.

MemoryFiles also knows what a power cut would leave: names as of the last directory sync, content as of the
last file sync. Every call that changes something is a step; `Steps` decides what happens at each.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum


class Crash(BaseException):
    """The process died here: nothing it does afterwards happens."""


class When(Enum):
    """Where in a step a crash or fault strikes."""

    BEFORE = "before"
    HALFWAY = "halfway"
    """Writes only: half of the bytes arrive."""
    AFTER = "after"


@dataclass(frozen=True, slots=True)
class Step:
    """One call that changes the directory."""

    number: int
    call: str
    name: str


Fault = Callable[[Step, When], None]
"""Raises Crash or OSError, or does nothing."""


def no_fault(step: Step, when: When) -> None:
    """All goes well."""


def crash_at(number: int, when: When) -> Fault:
    """Die at that step."""

    def fault(step: Step, at: When) -> None:
        if step.number == number and at is when:
            raise Crash(f"{step} {when}")

    return fault


def fail_at(numbers: range, when: When, code: int, *calls: str) -> Fault:
    """An OSError at those steps (of those calls)."""

    def fault(step: Step, at: When) -> None:
        if step.number in numbers and at is when and (not calls or step.call in calls):
            raise OSError(code, os.strerror(code), step.name)

    return fault


@dataclass
class _Inode:
    content: bytes = b""
    durable: bytes = b""


@dataclass
class MemoryFiles:
    """A `Files` in memory. `fault` is asked before, in and after every step."""

    fault: Fault = no_fault
    path: str = "(memory)"
    names_now: dict[str, _Inode] = field(default_factory=dict)
    names_durable: dict[str, _Inode] = field(default_factory=dict)
    steps: int = 0
    dead: bool = False

    def step(
        self, call: str, name: str, effect: Callable[[], None], half: Callable[[], None] | None = None
    ) -> None:
        """Do `effect` as one step."""
        if self.dead:
            raise Crash("dead already")
        self.steps += 1
        step = Step(self.steps, call, name)
        try:
            self.fault(step, When.BEFORE)
            if half is not None:
                try:
                    self.fault(step, When.HALFWAY)
                except BaseException:
                    half()
                    raise
            effect()
            self.fault(step, When.AFTER)
        except Crash:
            self.dead = True
            raise

    def reborn(self) -> MemoryFiles:
        """What a new process finds after a SIGKILL."""
        return MemoryFiles(names_now=dict(self.names_now), names_durable=dict(self.names_durable))

    def after_power_cut(self, keep: Callable[[], bool]) -> MemoryFiles:
        """What a new kernel finds; `keep` decides for each change that was not synced."""
        survivor = MemoryFiles()
        for name in self.names_now.keys() | self.names_durable.keys():
            now, durable = self.names_now.get(name), self.names_durable.get(name)
            inode = now if now is durable or keep() else durable
            if inode is not None:
                content = inode.content if inode.content == inode.durable or keep() else inode.durable
                survivor.names_now[name] = survivor.names_durable[name] = _Inode(content, content)
        return survivor

    def put(self, name: str, content: bytes) -> None:
        """Put a file there, whole and durable (planting damage)."""
        self.names_now[name] = self.names_durable[name] = _Inode(content, content)

    # -- Files -----------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        return sorted(self.names_now)

    def read(self, name: str) -> bytes:
        return self._inode(name).content

    def size_bytes(self, name: str) -> int:
        return len(self._inode(name).content)

    def create(self, name: str) -> MemoryFile:
        if name in self.names_now:
            raise FileExistsError(errno.EEXIST, "File exists", name)
        inode = _Inode()
        self.step("create", name, lambda: self.names_now.update({name: inode}))
        return MemoryFile(self, name, inode)

    def open_append(self, name: str) -> MemoryFile:
        return MemoryFile(self, name, self._inode(name))

    def rename(self, name: str, new_name: str) -> None:
        inode = self._inode(name)

        def move() -> None:
            del self.names_now[name]
            self.names_now[new_name] = inode

        self.step("rename", name, move)

    def unlink(self, name: str) -> None:
        self._inode(name)
        self.step("unlink", name, lambda: self.names_now.__delitem__(name))

    def sync(self) -> None:
        def settle() -> None:
            self.names_durable = dict(self.names_now)

        self.step("sync directory", "", settle)

    def _inode(self, name: str) -> _Inode:
        try:
            return self.names_now[name]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", name) from None


@dataclass
class MemoryFile:
    """An `AppendFile` of MemoryFiles."""

    files: MemoryFiles
    name: str
    inode: _Inode

    def write(self, data: bytes) -> int:
        def append(length: int) -> None:
            self.inode.content += data[:length]

        try:
            self.files.step("write", self.name, lambda: append(len(data)), lambda: append(len(data) // 2))
        except InterruptedError:  # how a fault says: a short write, without an error
            return len(data) // 2
        return len(data)

    def sync(self) -> None:
        def settle() -> None:
            self.inode.durable = self.inode.content

        self.files.step("sync", self.name, settle)

    def truncate(self, length_bytes: int) -> None:
        def cut() -> None:
            self.inode.content = self.inode.content[:length_bytes]

        self.files.step("truncate", self.name, cut)

    def close(self) -> None:
        pass
