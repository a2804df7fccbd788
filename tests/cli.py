"""The real command line, run as a child with a private run directory: what mount and guest tests drive."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
COMMAND = REPOSITORY / ".venv" / "bin" / "guestmemfs"
TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Guestmemfs:
    """`guestmemfs` with GUESTMEMFS_RUN_DIR set to a directory of its own."""

    directory: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def run_dir(self) -> Path:
        """Where its instances live."""
        return self.directory / "run"

    def tampered(self, code: str) -> Guestmemfs:
        """The same command line, but every Python it starts runs this code first, daemons included."""
        modules = self.directory / "modules"
        modules.mkdir()
        (modules / "sitecustomize.py").write_text(code)
        return replace(self, environment={**self.environment, "PYTHONPATH": str(modules)})

    def run(
        self, *arguments: object, check: bool = True, timeout_s: float = TIMEOUT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run one command. With check, a non-zero exit fails the test and shows what was printed."""
        command = [str(COMMAND), *(str(argument) for argument in arguments)]
        done = subprocess.run(
            command,
            env={**os.environ, **self.environment, "GUESTMEMFS_RUN_DIR": str(self.run_dir)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"{' '.join(command)} exited with {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def json(self, *arguments: object) -> Any:
        """Run one command with --json appended, and parse what it printed."""
        return json.loads(self.run(*arguments, "--json").stdout)

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """Start one command without waiting for it; the caller waits."""
        return subprocess.Popen(
            [str(COMMAND), *(str(argument) for argument in arguments)],
            env={**os.environ, **self.environment, "GUESTMEMFS_RUN_DIR": str(self.run_dir)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def mount(self, name: str = "gm", *options: object, size: str = "64M") -> Instance:
        """Mount an instance on a directory of its own (made if need be), and return it."""
        mountpoint = self.directory / f"mnt-{name}"
        mountpoint.mkdir(exist_ok=True)
        self.run("mount", mountpoint, "--name", name, "--size", size, *options)
        return Instance(self, name, mountpoint)

    def destroy_all(self) -> None:
        """Give everything back; never raises, the caller looks at what is left."""
        for entry in sorted(self.run_dir.iterdir()) if self.run_dir.is_dir() else ():
            self.run("umount", entry.name, check=False)
            self.run("destroy", entry.name, "--yes", "--force", check=False)


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance and the command line that made it."""

    cli: Guestmemfs
    name: str
    mountpoint: Path

    @property
    def state_dir(self) -> Path:
        """Where it keeps its state."""
        return self.cli.run_dir / self.name

    def status(self) -> dict[str, Any]:
        """`guestmemfs status --json`."""
        status: dict[str, Any] = self.cli.json("status", self.name)
        return status

    def problems(self) -> list[str]:
        """What `guestmemfs fsck` finds, served or stopped; a sentence each."""
        done = self.cli.run("fsck", self.name, "--json", check=False)
        found = [f"{each['kind']}: {each['detail']}" for each in json.loads(done.stdout)["problems"]]
        assert bool(found) == (done.returncode != 0), (done.returncode, found)
        return found

    @property
    def daemon_pid(self) -> int:
        """The daemon that serves it now."""
        return int(self.status()["daemon_pid"])

    def umount(self) -> None:
        """Unmount it; region and metadata stay."""
        self.cli.run("umount", self.name)

    def remount(self) -> None:
        """Mount it again where it was."""
        self.cli.run("mount", self.mountpoint, "--name", self.name)
