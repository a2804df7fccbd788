"""Starting the command with a tracer beside it.

The process that was asked to run the command becomes the command: it forks the tracer off, waits until it
is seized, and executes. So the command has the launcher's pid, parent, process group, terminal and
descriptors, and exit status, signals and job control need nobody to pass them on. The tracer is a
grandchild in a session of its own whose parent is gone, so the command does not see it as a child; its
standard input and output are /dev/null and it holds no other descriptor of the command's, so nobody waits
for it at a pipe. It ends as soon as nothing is traced any more.

Called by cli/run.py and by the tests' own launchers.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from guestmemfs_fuse.core.errors import UnsupportedError
from guestmemfs_fuse.linux import process
from guestmemfs_fuse.redirect.arch import require_supported
from guestmemfs_fuse.redirect.report import Report
from guestmemfs_fuse.redirect.resolve import Resolver
from guestmemfs_fuse.redirect.tracee import LeavingRule

EXIT_CANNOT_EXECUTE = 126
EXIT_NOT_FOUND = 127
"""As env(1), nohup(1) and the shells answer."""

_READY = b"+"


@dataclass(frozen=True, slots=True)
class Options:
    """How to run. share: make private mappings of guest memory shared."""

    rule: LeavingRule = field(default_factory=LeavingRule)
    share: bool = True
    verbose: bool = False


def launch(command: Sequence[str], options: Options, make_resolver: Callable[[], Resolver]) -> NoReturn:
    """Become `command`, traced. make_resolver is called in the tracer only.

    Raises UnsupportedError when this host cannot trace. Exits with 127 or 126 when there is no such command
    or it cannot be executed.
    """
    require_supported()
    _flush()
    reading, writing = _pipe()
    command_pid = os.getpid()
    between = os.fork()
    if between == 0:
        os.close(reading)
        _become_tracer(command_pid, writing, options, make_resolver)
    os.close(writing)
    try:
        os.waitpid(between, 0)
    except ChildProcessError:
        pass  # SIGCHLD is ignored: the kernel has reaped it
    with open(reading, "rb") as answers:
        answer = answers.read()
    if answer != _READY:
        raise UnsupportedError(
            answer.decode(errors="replace") or "the tracer died before it could trace",
            hint="run outside other tracers (strace, gdb), with CAP_SYS_PTRACE",
        )
    _execute(command)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # Python's word for a descriptor that was closed at start
            stream.flush()


def _pipe() -> tuple[int, int]:
    """A pipe beyond the standard descriptors, which may be closed: they are the command's, and stay so."""
    low = os.pipe()
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in low]
    for fd in low:
        os.close(fd)
    return high[0], high[1]


def _execute(command: Sequence[str]) -> NoReturn:
    # Python ignores these two; a program expects the defaults.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    try:
        os.execvp(command[0], list(command))
    except OSError as error:
        if error.errno == errno.ENOEXEC:
            # A script without "#!": what execvp(3) does, and Python's does not
            import shutil

            os.execv("/bin/sh", ["sh", shutil.which(command[0]) or command[0], *command[1:]])
        Report(verbose=False).problem(f"{command[0]}: {error.strerror}")
        missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
        os._exit(EXIT_NOT_FOUND if missing else EXIT_CANNOT_EXECUTE)


# -- the tracer's side -----------------------------------------------------------------------------------


def _become_tracer(
    command_pid: int, writing: int, options: Options, make_resolver: Callable[[], Resolver]
) -> NoReturn:
    """In the first child: a session of our own, and a second fork so that the command is not our parent."""
    status = 1
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        _trace(command_pid, writing, options, make_resolver)
        status = 0
    except BaseException as error:
        try:
            if options.verbose:
                traceback.print_exc()
            Report(verbose=False).problem(f"the tracer failed: {error}")
        except OSError:
            pass
    finally:
        # Never back into the caller's stack: this is a copy of the launcher. Whatever was traced goes on.
        os._exit(status)


def _trace(command_pid: int, writing: int, options: Options, make_resolver: Callable[[], Resolver]) -> None:
    _leave_the_command_alone(keep_fd=writing)
    from ptrace import PtraceError

    from guestmemfs_fuse.redirect.kernel import Ptrace
    from guestmemfs_fuse.redirect.rewriter import Rewriter
    from guestmemfs_fuse.redirect.tracer import Tracer

    ptrace = Ptrace()
    report = Report(verbose=options.verbose)
    rewriter = Rewriter(make_resolver(), report, share=options.share)
    try:
        ptrace.seize(command_pid, at_exit=options.verbose)
    except PtraceError as error:
        os.write(writing, f"cannot trace: {os.strerror(error.errno or errno.EPERM)}".encode())
        return
    os.write(writing, _READY)
    os.close(writing)
    Tracer(ptrace, rewriter, options.rule, report).run()


def _leave_the_command_alone(*, keep_fd: int) -> None:
    """Share nothing with the command but stderr, and survive the signals that are meant for it."""
    null_fd = os.open(os.devnull, os.O_RDWR)
    os.dup2(null_fd, 0)
    os.dup2(null_fd, 1)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != keep_fd:
            try:
                os.close(int(name))
            except OSError:
                pass  # the listing's own
    os.chdir("/")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    # waited for with sigtimedwait, which an ignored signal never reaches
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    process.set_name("guestmemfs-run")
