"""What an area measures on: instances, other filesystems and programs, all in one directory of the run's.

`Bench` is entered once per run. Whatever happens then (an error, Ctrl-C, SIGTERM), leaving it unmounts and
destroys every instance, ends every process of the run, returns huge pages and removes the directory. After
SIGKILL the next run does that, as it enters.

Instances are driven through the command line, as a user would, with a run directory of their own: others
on the host are not seen.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from guestmemfs_fuse.bench import cleanup, native, pool
from guestmemfs_fuse.bench.pool import HUGE_PAGE_BYTES
from guestmemfs_fuse.core.errors import GuestmemfsError, OutOfMemoryError
from guestmemfs_fuse.linux import mount
from guestmemfs_fuse.region import host_memory

COMMAND = (sys.executable, "-c", "from guestmemfs_fuse.cli.main import main; main()")
SPARE_BYTES = 1 << 30
"""Left to the host when sizes are chosen by what is available."""

_COMMAND_TIMEOUT_S = 120.0


class CommandFailedError(GuestmemfsError):
    """A `guestmemfs` command of the benchmark failed; the message carries its stderr."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A mounted instance of the run."""

    bench: Bench
    name: str
    mountpoint: Path

    @property
    def region_path(self) -> Path:
        """The region's own tmpfs."""
        return self.bench.run_dir / self.name / "region"

    def backing_path(self, path: Path) -> Path:
        """The file in the region's tmpfs that holds the memory of `path`, a file of this instance."""
        return self.region_path / "data" / f"{path.stat().st_ino:x}"

    def status(self) -> Any:
        """`guestmemfs status --json`."""
        return json.loads(self.bench.guestmemfs("status", self.name, "--json"))

    def destroy(self) -> None:
        """Unmount it and give its memory back."""
        self.bench.guestmemfs("umount", self.name)
        self.bench.guestmemfs("destroy", self.name, "--yes", "--force")


class Bench:
    """The run's directory and everything in it; a context manager."""

    def __init__(self, say: Callable[[str], None] = lambda text: None) -> None:
        """say: told what is being done, for people who wait."""
        self.say = say
        self._cleanup = ExitStack()
        self._filled: dict[int, Instance] = {}
        self._programs: dict[str, Path] = {}
        self.guest_kernel: Path | None = None

    def __enter__(self) -> Bench:
        for left in cleanup.abandoned(Path(tempfile.gettempdir())):
            self.say(f"clearing away what a run that was killed has left in {left}")
            cleanup.sweep(left)
        self.directory = Path(tempfile.mkdtemp(prefix=cleanup.PREFIX))
        self._cleanup.enter_context(cleanup.claimed(self.directory))
        self._cleanup.callback(cleanup.sweep, self.directory)
        self.run_dir = self.directory / "run"
        self.programs_dir = self.directory / "bin"
        self.programs_dir.mkdir()
        self._environment = {**os.environ, "GUESTMEMFS_RUN_DIR": str(self.run_dir)}
        self._cleanup.callback(self._destroy_all)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _deaf():
            self._cleanup.close()

    # -- ours ------------------------------------------------------------------------------------------

    def guestmemfs(self, *arguments: object) -> str:
        """Run one command and return what it printed. Raises CommandFailedError."""
        done = subprocess.run(
            [*COMMAND, *map(str, arguments)],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_COMMAND_TIMEOUT_S,
        )
        if done.returncode:
            said = " ".join(done.stderr.split())
            raise CommandFailedError(f"guestmemfs {' '.join(map(str, arguments))}: {said}")
        return done.stdout

    def instance(self, name: str, size_bytes: int) -> Instance:
        """Mount a new instance."""
        mountpoint = self.directory / f"mnt-{name}"
        mountpoint.mkdir(exist_ok=True)
        self.guestmemfs("mount", mountpoint, "--name", name, "--size", size_bytes)
        return Instance(self, name, mountpoint)

    def filled(self, files: int) -> Instance:
        """An instance with that many empty files in its directory d0; made once, used by several areas."""
        if files not in self._filled:
            self.say(f"making {files:,} files")
            made = self.instance(f"files-{files}", 64 << 20)
            self.run("calls", "fill", made.mountpoint, files, files)
            self._filled[files] = made
        return self._filled[files]

    def _destroy_all(self) -> None:
        for entry in sorted(self.run_dir.iterdir()) if self.run_dir.is_dir() else ():
            with contextlib.suppress(CommandFailedError, subprocess.TimeoutExpired):
                self.guestmemfs("umount", entry.name)
            with contextlib.suppress(CommandFailedError, subprocess.TimeoutExpired):
                self.guestmemfs("destroy", entry.name, "--yes", "--force")

    # -- others ----------------------------------------------------------------------------------------

    def tmpfs(self, name: str, options: str) -> Path:
        """Mount a tmpfs of its own."""
        path = self.directory / name
        path.mkdir()
        mount.mount("bench", str(path), "tmpfs", mount.MS_NOSUID | mount.MS_NODEV, options)
        return path

    def umount(self, path: Path) -> None:
        """Take such a mount away again."""
        mount.umount(str(path), mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)
        path.rmdir()

    @contextlib.contextmanager
    def served(self, name: str, command: Sequence[object], source: Path, *rest: object) -> Iterator[Path]:
        """Where a FUSE server, `command SOURCE MOUNTPOINT REST...`, serves what is in `source`."""
        path = self.directory / f"mnt-{name}"
        path.mkdir()
        self.start(*command, source, path, *rest, as_daemon=True)
        try:
            yield path
        finally:
            self.umount(path)

    @contextlib.contextmanager
    def served_in_c(self, source: Path) -> Iterator[Path]:
        """The same by libfuse in C, which passes every call on. Raises UnsupportedError: no libfuse."""
        with self.served("passthrough", [self.program("passthrough")], source) as path:
            yield path

    @contextlib.contextmanager
    def hugetlbfs(self, name: str, size_bytes: int) -> Iterator[Path]:
        """A hugetlbfs with room for size_bytes; the host's pool grows by as much meanwhile.

        Raises OutOfMemoryError when the kernel does not find that many huge pages.
        """
        with pool.larger(size_bytes // HUGE_PAGE_BYTES, self.directory):
            path = self.directory / name
            path.mkdir()
            # min_size reserves: nobody else can take the pages while we measure.
            options = f"pagesize=2M,size={size_bytes},min_size={size_bytes}"
            try:
                mount.mount("bench", str(path), "hugetlbfs", mount.MS_NOSUID | mount.MS_NODEV, options)
            except OSError as error:
                path.rmdir()
                raise OutOfMemoryError(f"huge pages went to somebody else: {error.strerror}") from error
            try:
                yield path
            finally:
                self.umount(path)

    # -- programs --------------------------------------------------------------------------------------

    def program(self, name: str) -> Path:
        """The program made of NAME.c. Raises UnsupportedError."""
        if name not in self._programs:
            last = native.libfuse_flags() if name == "passthrough" else []
            self._programs[name] = native.build(name, self.programs_dir, last=last)
        return self._programs[name]

    def run(self, name: str, *arguments: object, **environment: str) -> dict[str, float]:
        """Run the program NAME; what it measured. Raises ToolFailedError."""
        return native.run(self.program(name), *arguments, environment=environment)

    def start(
        self, *command: object, stdin: int = subprocess.DEVNULL, as_daemon: bool = False
    ) -> subprocess.Popen[str]:
        """Start something that is ended with the run at the latest; returns when it said its first word.

        as_daemon: in a session of its own, as our daemons are: the scheduler divides the CPUs by sessions
        (sched_autogroup_enabled), so that servers in another one would be at an advantage or the reverse.
        """
        started = subprocess.Popen(
            [str(each) for each in command],
            env={**self._environment, "GUESTMEMFS_BENCH": str(self.directory)},
            stdin=stdin,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=as_daemon,
        )
        self._cleanup.callback(_end, started)
        assert started.stdout is not None
        if not started.stdout.readline():
            raise native.ToolFailedError(f"{command[0]} did not start")
        return started

    @contextlib.contextmanager
    def watching(self, path: Path) -> Iterator[dict[str, float]]:
        """Stat `path` past all caches, again and again, until the block ends; then the map is filled."""
        found: dict[str, float] = {}
        watcher = self.start(self.program("calls"), "watch", path, stdin=subprocess.PIPE)
        try:
            yield found
        finally:
            text, _ = watcher.communicate(timeout=_COMMAND_TIMEOUT_S)
        found.update(native.parse(text))
        if found.get("failed") != 0:
            raise native.ToolFailedError(f"stat of {path} failed {found.get('failed')} times")


def fits(size_bytes: int) -> bool:
    """Whether the host can give that much and keep some to spare."""
    return size_bytes + SPARE_BYTES <= host_memory.available_bytes()


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Let neither another Ctrl-C nor the terminal's end stop the cleaning up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@cache
def cpus() -> int:
    """CPUs this process may use."""
    return len(os.sched_getaffinity(0))
