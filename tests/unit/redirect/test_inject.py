"""Other calls in place of the program's own, driven by a fake thread that does what the kernel does."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

from guestmemfs_fuse.redirect import arch
from guestmemfs_fuse.redirect.inject import Call, Injection, Rewrite, Steps

CALL = 9
RIP = 0x401002
ALL_SIGNALS = (1 << 64) - 1
OWN_MASK = 0b101
ERESTARTSYS = 512


@dataclass
class Registers:
    """The registers that matter, filled so that a mix-up shows."""

    rax: int = 0
    orig_rax: int = CALL
    rip: int = RIP
    rdi: int = 1
    rsi: int = 2
    rdx: int = 3
    r10: int = 4
    r8: int = 5
    r9: int = 6


@dataclass
class FakeThread:
    """One thread: results is what each call made will answer."""

    results: list[int]
    now: Registers = field(default_factory=Registers)
    mask: int = OWN_MASK
    made: list[tuple[int, ...]] = field(default_factory=list)

    def registers(self, tid: int) -> Registers:
        return copy.copy(self.now)

    def set_registers(self, tid: int, registers: arch.Registers) -> None:
        assert isinstance(registers, Registers)
        self.now = registers

    def hold_signals(self, tid: int) -> int:
        before, self.mask = self.mask, ALL_SIGNALS
        return before

    def release_signals(self, tid: int, mask: int) -> None:
        self.mask = mask

    def run_call(self) -> None:
        """From an entry to the next exit."""
        now = self.now
        assert now.orig_rax != arch.NO_CALL
        self.made.append((now.orig_rax, now.rdi, now.rsi, now.rdx, now.r10, now.r8, now.r9))
        now.rax = arch.unsigned(self.results.pop(0))

    def enter(self) -> None:
        """From an exit that left the thread on its syscall instruction to the entry."""
        assert self.now.rip == RIP - 2
        self.now.rip = RIP
        self.now.orig_rax = self.now.rax


def play(thread: FakeThread, rewrite: Rewrite) -> int:
    """Run a rewrite to its end; the program's result."""
    injection = Injection(thread, 1, rewrite)
    injection.start()
    while True:
        thread.run_call()
        result = injection.on_exit()
        if result is not None:
            return result
        thread.enter()


def calls(*wanted: tuple[int, ...]) -> Steps:
    """Make these calls and answer with the sum of their results."""
    total = 0
    for number, *arguments in wanted:
        total += yield Call(number, tuple(arguments))
    return total


def test_the_first_call_takes_the_place_of_the_programs_own() -> None:
    thread = FakeThread([42])
    assert play(thread, Rewrite(calls((257, -100, 7)))) == 42
    assert thread.made == [(257, arch.unsigned(-100), 7, 0, 0, 0, 0)]


def test_further_calls_are_made_and_every_register_but_the_result_is_put_back() -> None:
    thread = FakeThread([10, 20, 30])
    assert play(thread, Rewrite(calls((1, 11), (2, 22), (3, 33)))) == 60
    assert [made[:2] for made in thread.made] == [(1, 11), (2, 22), (3, 33)]
    assert thread.now == Registers(rax=60)


def test_a_result_may_be_an_error() -> None:
    thread = FakeThread([-22])
    assert play(thread, Rewrite(calls((1,)))) == -22
    assert thread.now == Registers(rax=arch.unsigned(-22))


def test_a_single_call_is_open_to_signals() -> None:
    thread = FakeThread([1])
    injection = Injection(thread, 1, Rewrite(calls((1,))))
    injection.start()
    assert thread.mask == OWN_MASK
    thread.run_call()
    assert injection.on_exit() == 1
    assert thread.mask == OWN_MASK


def test_signals_are_held_from_the_second_call_on_and_released_after() -> None:
    thread = FakeThread([1, 2])
    injection = Injection(thread, 1, Rewrite(calls((1,), (2,))))
    injection.start()
    thread.run_call()
    assert injection.on_exit() is None
    assert thread.mask == ALL_SIGNALS
    thread.enter()
    thread.run_call()
    assert injection.on_exit() == 3
    assert thread.mask == OWN_MASK


def test_a_call_that_is_restarted_is_waited_for_when_no_handler_can_run() -> None:
    thread = FakeThread([1, -ERESTARTSYS, 5])
    injection = Injection(thread, 1, Rewrite(calls((1,), (2,))))
    injection.start()
    thread.run_call()
    assert injection.on_exit() is None
    thread.enter()
    thread.run_call()
    assert injection.on_exit() is None
    thread.run_call()  # the kernel does it again by itself
    assert injection.on_exit() == 6


def test_otherwise_the_programs_own_call_is_what_is_started_again() -> None:
    thread = FakeThread([-ERESTARTSYS])
    assert play(thread, Rewrite(calls((1, 7)))) == -ERESTARTSYS
    assert thread.now == Registers(rax=arch.unsigned(-ERESTARTSYS), orig_rax=CALL)


def test_abandoning_closes_the_steps() -> None:
    closed = []

    def steps() -> Steps:
        try:
            yield Call(1)
        finally:
            closed.append(True)
        return 0

    injection = Injection(FakeThread([0]), 1, Rewrite(steps()))
    injection.start()
    injection.abandon()
    assert closed == [True]
