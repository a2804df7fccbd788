"""Making a stopped thread run other system calls than the one it asked for.

A rewrite is a generator: it yields a Call, is sent that call's result, and returns what the program shall
see as the result of its own call. The thread is at the entry of the program's call when it starts; the first
Call takes its place there, every further one is made by moving the thread back onto its own syscall
instruction. At the end all registers but rax are as the program left them.

Invariants: no code and no stack of the program is written. There is always a first call: to skip it would
show a number that no seccomp filter knows, and many of those kill. Signals are held from the second call on,
so no handler of the program runs between the calls; stops by SIGSTOP and death by SIGKILL remain possible
and are the tracer's to follow. Called by the tracer at the syscall-stops of that thread.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from guestmemfs_fuse.redirect import arch
from guestmemfs_fuse.redirect.kernel import ThreadControl, copy_of


@dataclass(frozen=True, slots=True)
class Call:
    """One system call; arguments may be negative."""

    number: int
    arguments: tuple[int, ...] = ()


Steps = Generator[Call, int, int]
"""Calls to make, at least one; results sent back in (signed, -errno for errors), the program's returned."""


@dataclass(frozen=True, slots=True)
class Rewrite:
    """What to do instead of one system call. is_mapping: success means that guest memory was mapped."""

    steps: Steps
    is_mapping: bool = False


class Injection:
    """One rewrite on its way through one thread."""

    def __init__(self, control: ThreadControl, tid: int, rewrite: Rewrite) -> None:
        self.rewrite = rewrite
        self._control = control
        self._tid = tid
        self._saved = control.registers(tid)
        self._mask: int | None = None
        """The program's own signal mask, while its signals are held."""

    def start(self) -> None:
        """At the entry of the program's call: put the first call in its place."""
        call = next(self.rewrite.steps)
        registers = copy_of(self._saved)
        registers.orig_rax = call.number
        arch.set_arguments(registers, call.arguments)
        self._control.set_registers(self._tid, registers)

    def on_exit(self) -> int | None:
        """At the exit of a call: set the next one up. Returns the program's result once it has one."""
        result = arch.signed(self._control.registers(self._tid).rax)
        if arch.wants_restart(result):
            return self._restart(result)
        try:
            call = self.rewrite.steps.send(result)
        except StopIteration as done:
            return self._finish(int(done.value))
        if self._mask is None:
            self._mask = self._control.hold_signals(self._tid)
        registers = copy_of(self._saved)
        registers.rip -= arch.SYSCALL_INSTRUCTION_BYTES
        registers.rax = call.number
        registers.orig_rax = arch.NO_CALL
        arch.set_arguments(registers, call.arguments)
        self._control.set_registers(self._tid, registers)
        return None

    def abandon(self) -> None:
        """The thread is gone."""
        self.rewrite.steps.close()

    def _restart(self, result: int) -> int | None:
        if self._mask is not None:
            # No handler can come in between: the kernel runs the same call again by itself.
            return None
        # A handler may run first, so the program's own call is what has to be started again, and it will
        # come here as a new one.
        self.rewrite.steps.close()
        return self._finish(result)

    def _finish(self, result: int) -> int:
        self._saved.rax = arch.unsigned(result)
        self._control.set_registers(self._tid, self._saved)
        if self._mask is not None:
            self._control.release_signals(self._tid, self._mask)
        return result
