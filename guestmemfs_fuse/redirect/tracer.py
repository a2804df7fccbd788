"""The event loop over the tracees: every stop of every traced thread comes through here.

PTRACE_SEIZE semantics throughout: signals pass unchanged, group-stops stay group-stops (PTRACE_LISTEN), new
threads and children are followed, exec keeps the process. When the tracer dies, the kernel lets all tracees
go (PTRACE_O_EXITKILL is not set).

Owns: the Thread and Process of everything that is traced. Invariants: a thread is either running or its
stop is being handled right here; it is never let go in the middle of a rewrite. Ends when nothing is left
to trace. Called by launch, in the tracer's process.
"""

from __future__ import annotations

import errno
import os
import signal
import time

from ptrace import PtraceError
from ptrace.binding.func import (
    PTRACE_EVENT_CLONE,
    PTRACE_EVENT_EXEC,
    PTRACE_EVENT_EXIT,
    PTRACE_EVENT_FORK,
    PTRACE_EVENT_VFORK,
)

from guestmemfs_fuse.redirect import arch, kernel
from guestmemfs_fuse.redirect.inject import Injection
from guestmemfs_fuse.redirect.kernel import Ptrace
from guestmemfs_fuse.redirect.own import is_ours
from guestmemfs_fuse.redirect.report import Report
from guestmemfs_fuse.redirect.rewriter import CALLS, Rewriter
from guestmemfs_fuse.redirect.tracee import GRACE_S, PREPARING_CALLS, LeavingRule, Process, Thread

_BIRTHS = (PTRACE_EVENT_FORK, PTRACE_EVENT_VFORK, PTRACE_EVENT_CLONE)
_STOPPING = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)


class Tracer:
    """Follows one command and its descendants. The command must have been seized already."""

    def __init__(self, ptrace: Ptrace, rewriter: Rewriter, rule: LeavingRule, report: Report) -> None:
        self._ptrace = ptrace
        self._rewriter = rewriter
        self._rule = rule
        self._report = report
        self._threads: dict[int, Thread] = {}
        self._processes: dict[int, Process] = {}
        self._timed: set[Process] = set()
        """Processes that may be due by time: they have mapped, or are leaving."""

    def run(self) -> None:
        """Trace until nothing is left."""
        statistics = self._report.statistics
        while True:
            try:
                stop = kernel.wait(self._deadline())
            except ChildProcessError:
                break
            if stop is None:
                self._on_time(time.monotonic())
                continue
            statistics.stops += 1
            try:
                self._on_status(*stop)
            except PtraceError as error:
                # ESRCH: killed while we looked at it. Its death is the next thing we hear of it.
                if error.errno != errno.ESRCH:
                    raise
        self._report.sum_up()

    # -- stops -----------------------------------------------------------------------------------------

    def _on_status(self, tid: int, status: int) -> None:
        if not os.WIFSTOPPED(status):
            self._gone(tid)
            return
        thread = self._threads.get(tid) or self._meet(tid)
        number = os.WSTOPSIG(status)
        event = status >> 16
        if number == kernel.SYSCALL_STOP:
            self._on_syscall_stop(thread)
        elif event == 0:
            self._go_on(thread, number)
        elif event == kernel.EVENT_STOP and number in _STOPPING:
            self._on_group_stop(thread)
        else:
            self._on_event(thread, event)

    def _on_syscall_stop(self, thread: Thread) -> None:
        if thread.injection is not None:
            self._on_injection_stop(thread, thread.injection)
        elif not thread.process.is_leaving:
            entry = self._ptrace.entry(thread.tid)
            if entry is None:
                if thread.tid in thread.process.preparing:
                    thread.process.ends_preparing(thread.tid, time.monotonic())
            elif entry.arch == arch.AUDIT_ARCH:
                if entry.number in CALLS:
                    rewrite = self._rewriter.rewrite(thread.tid, entry)
                    if rewrite is not None:
                        thread.injection = Injection(self._ptrace, thread.tid, rewrite)
                        thread.injection.start()
                elif entry.number in PREPARING_CALLS:
                    thread.process.begins_preparing(thread.tid, time.monotonic())
        self._go_on(thread)

    def _on_injection_stop(self, thread: Thread, injection: Injection) -> None:
        if self._ptrace.entry(thread.tid) is not None:
            return
        result = injection.on_exit()
        if result is None:
            return
        thread.injection = None
        if injection.rewrite.is_mapping and not arch.is_error(result):
            self._report.statistics.mappings += 1
            thread.process.has_mapped(time.monotonic())
            self._timed.add(thread.process)
            if self._rule.all_leave(self._report.statistics.mappings):
                for process in self._processes.values():
                    self._leave(process)

    def _on_group_stop(self, thread: Thread) -> None:
        if thread.process.is_leaving and thread.injection is None:
            self._let_go(thread)
        else:
            self._ptrace.listen(thread.tid)

    def _on_event(self, thread: Thread, event: int) -> None:
        if event in _BIRTHS:
            if thread.process.is_leaving:
                # The child is traced already, whether or not its first stop has been reported.
                child = self._ptrace.event_message(thread.tid)
                self._leave((self._threads.get(child) or self._meet(child)).process)
        elif event == PTRACE_EVENT_EXEC:
            self._on_exec(thread)
        elif event == PTRACE_EVENT_EXIT and len(self._threads) == 1:
            self._report.sum_up()
        self._go_on(thread)

    def _on_exec(self, thread: Thread) -> None:
        former = self._ptrace.event_message(thread.tid)
        if former != thread.tid:
            # The thread that called exec has taken over the leader's number; its own is gone unannounced.
            self._gone(former)
        if thread.injection is not None:
            thread.injection.abandon()
            thread.injection = None
        thread.process.starts_over()
        if is_ours(thread.tid):
            self._leave(thread.process)

    def _go_on(self, thread: Thread, signal_number: int = 0) -> None:
        if thread.process.is_leaving and thread.injection is None:
            self._let_go(thread, signal_number)
        else:
            self._ptrace.resume(thread.tid, signal_number)

    # -- coming and going ------------------------------------------------------------------------------

    def _meet(self, tid: int) -> Thread:
        """A thread that is traced since its birth, at its first stop."""
        try:
            pid = kernel.thread_group(tid)
        except OSError as error:
            raise PtraceError(f"thread {tid} is gone", errno=errno.ESRCH, pid=tid) from error
        process = self._processes.get(pid)
        if process is None:
            process = self._processes[pid] = Process(pid)
            self._report.statistics.processes += 1
        process.threads.add(tid)
        thread = self._threads[tid] = Thread(tid, process)
        return thread

    def _gone(self, tid: int) -> None:
        thread = self._threads.pop(tid, None)
        if thread is None:
            return
        if thread.injection is not None:
            thread.injection.abandon()
        process = thread.process
        process.threads.discard(tid)
        process.ends_preparing(tid, time.monotonic())
        if not process.threads:
            self._processes.pop(process.pid, None)
            self._timed.discard(process)
            self._rewriter.process_is_gone()

    def _let_go(self, thread: Thread, signal_number: int = 0) -> None:
        if len(self._threads) == 1:
            self._report.sum_up()
        self._ptrace.detach(thread.tid, signal_number)
        self._gone(thread.tid)

    def _leave(self, process: Process) -> None:
        """Let its threads go at their next stop; those that sleep on are interrupted after a while."""
        if not process.is_leaving:
            process.interrupt_at_s = time.monotonic() + GRACE_S
            self._timed.add(process)

    # -- time ------------------------------------------------------------------------------------------

    def _deadline(self) -> float | None:
        if not self._timed:
            return None
        due = [at_s for process in self._timed if (at_s := self._rule.due_s(process)) is not None]
        return min(due, default=None)

    def _on_time(self, now_s: float) -> None:
        for process in list(self._timed):
            due_s = self._rule.due_s(process)
            if due_s is None or due_s > now_s:
                continue
            if process.is_leaving:
                self._interrupt(process, now_s)
            else:
                self._leave(process)

    def _interrupt(self, process: Process, now_s: float) -> None:
        process.interrupt_at_s = now_s + GRACE_S
        for tid in list(process.threads):
            try:
                self._ptrace.interrupt(tid)
            except PtraceError as error:
                if error.errno != errno.ESRCH:
                    raise
