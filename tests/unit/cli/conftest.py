"""The command line without root, mounts or daemons: a private registry, and fakes at its edges."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from guestmemfs_fuse.cli import host, sight
from guestmemfs_fuse.cli.boundary import DEBUG_VARIABLE
from guestmemfs_fuse.cli.main import cli
from guestmemfs_fuse.cli.sight import Sight
from guestmemfs_fuse.control import client
from guestmemfs_fuse.metadata import instance as registry
from guestmemfs_fuse.metadata.instance import Instance, Paths
from tests.unit.cli.fakes import FakeDaemon, a_config


@pytest.fixture(autouse=True)
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry of its own, no debug output."""
    directory = tmp_path / "run"
    monkeypatch.setenv(registry.RUN_DIR_VARIABLE, str(directory))
    monkeypatch.setenv(DEBUG_VARIABLE, "")  # set, so that what --debug puts there is taken back
    return directory


@pytest.fixture(autouse=True)
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Privilege and /dev/fuse are there unless a test says otherwise."""
    monkeypatch.setattr(host.os, "geteuid", lambda: 0)
    monkeypatch.setattr(host, "require_fuse", lambda: None)


@pytest.fixture
def run() -> Callable[..., Result]:
    """Run one command line in this process."""

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(cli, list(arguments), prog_name="guestmemfs")

    return invoke


@pytest.fixture
def run_json(run: Callable[..., Result]) -> Callable[..., Any]:
    """Run one command line with --json and return what it printed."""

    def invoke(*arguments: str) -> Any:
        done = run(*arguments, "--json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    return invoke


@pytest.fixture
def make_instance() -> Callable[..., Instance]:
    """Put an instance into the registry: its directory and configuration, nothing else."""

    def make(name: str = "guests", mountpoint: str = "/mnt/guests", **changes: Any) -> Instance:
        config = a_config(name, mountpoint, **changes)
        paths = registry.register(name)
        config.save(paths.state_dir)
        return Instance(name, paths, config)

    return make


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> FakeDaemon:
    """Whatever asks a daemon asks this one."""
    fake = FakeDaemon()
    monkeypatch.setattr(client, "call", fake.call)
    return fake


@pytest.fixture
def see(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let every look at an instance show these sights in turn, the last one for ever."""

    def show(*sights: Sight) -> None:
        remaining = list(sights)
        monkeypatch.setattr(sight, "look", lambda _: remaining.pop(0) if len(remaining) > 1 else remaining[0])

    return show


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """A state directory."""
    (tmp_path / "state").mkdir()
    return Paths(str(tmp_path / "state"))
