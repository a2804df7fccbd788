"""`mount` with a daemon that starts, or does not, on paper: what is written, and what is taken back."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from guestmemfs_fuse.cli import mounting, sight
from guestmemfs_fuse.core.errors import DaemonError, ExitCode, OutOfMemoryError
from guestmemfs_fuse.handover import fdnames, launch
from guestmemfs_fuse.linux import mount
from guestmemfs_fuse.metadata import instance as registry
from guestmemfs_fuse.metadata.instance import Instance, InstanceConfig, Paths
from guestmemfs_fuse.region import choose
from tests.unit.cli.fakes import DEAD, MIB, RESTARTING, SERVING, STOPPED

Run = Callable[..., Result]
See = Callable[..., None]
Make = Callable[..., Instance]


@dataclass
class FakeHost:
    """Regions and daemons that are noted down instead of made."""

    regions: set[str] = field(default_factory=set)  # uuids
    started: list[InstanceConfig] = field(default_factory=list)
    unmounted: list[str] = field(default_factory=list)
    failure: BaseException | None = None

    def start(self, state_dir: str, argv: list[str], *_: Any, **__: Any) -> int:
        """Stands in for launch.start_daemon: the daemon makes its region first."""
        config = InstanceConfig.load(state_dir)
        self.started.append(config)
        self.regions.add(config.uuid_hex)
        Path(state_dir, "daemon.log").touch()
        if self.failure is not None:
            raise self.failure
        return 40

    def is_there(self, config: InstanceConfig, paths: Paths, received: object = None) -> bool:
        return config.uuid_hex in self.regions

    def destroy(self, config: InstanceConfig, paths: Paths) -> None:
        self.regions.discard(config.uuid_hex)


@pytest.fixture(autouse=True)
def fake_host(monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    fake = FakeHost()
    monkeypatch.setattr(launch, "start_daemon", fake.start)
    monkeypatch.setattr(choose, "region_is_there", fake.is_there)
    monkeypatch.setattr(choose, "destroy_region", fake.destroy)
    monkeypatch.setattr(mount, "umount", lambda path, flags: fake.unmounted.append(path))
    return fake


@pytest.fixture
def mountpoint(tmp_path: Path) -> str:
    path = tmp_path / "mnt"
    path.mkdir()
    return str(path)


@pytest.fixture
def stored(make_instance: Make, mountpoint: str, fake_host: FakeHost, see: See) -> Instance:
    """An instance that was unmounted, with its memory."""
    made = make_instance("guests", mountpoint)
    fake_host.regions.add(made.config.uuid_hex)
    see(STOPPED)
    return made


# -- first use -------------------------------------------------------------------------------------------


def test_first_use_makes_the_instance(run: Run, mountpoint: str, fake_host: FakeHost) -> None:
    done = run("mount", mountpoint, "--size", "5M", "--name", "vms")
    assert done.exit_code == 0
    assert done.stdout == f"instance vms serves a 6 MiB tmpfs region at {mountpoint}\n"
    assert done.stderr == "note: the size was rounded up to whole blocks of 2M: 6M\n"
    instance = registry.find("vms")
    assert [instance.config] == fake_host.started
    assert (instance.config.size_bytes, instance.config.mountpoint) == (6 * MIB, mountpoint)


def test_an_instance_without_a_name_is_called_after_its_mountpoint(run: Run, mountpoint: str) -> None:
    assert run("mount", mountpoint, "--size", "4M").exit_code == 0
    assert registry.find(mountpoint).name == registry.default_name(mountpoint)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], ExitCode.USAGE, "needs --size"),
        (["--size", "4X"], ExitCode.USAGE, "is no size"),
        (["--size", "1000T"], ExitCode.NO_MEMORY, "does not fit"),
        (["--size", "4M", "--numa-node", "999"], ExitCode.USAGE, "no NUMA node"),
        (["--size", "4M", "--page-size", "1G"], ExitCode.USAGE, "no 1G pages"),
        (["--size", "4M", "--name", "no/name"], ExitCode.USAGE, "no instance name"),
        (["--size", "4M", "--name", ""], ExitCode.USAGE, "'' is no instance name"),
        (["--size", "4M", "--region", "paper"], ExitCode.USAGE, "paper"),
    ],
)
def test_bad_wishes_are_refused_before_anything_is_made(
    arguments: list[str], code: int, message: str, run: Run, mountpoint: str, run_dir: Path
) -> None:
    done = run("mount", mountpoint, *arguments)
    assert done.exit_code == code
    assert message in done.stderr
    assert not run_dir.exists()


def test_bad_mountpoints_are_refused_before_anything_is_made(run: Run, tmp_path: Path, run_dir: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for name in ("absent", "full", "full/file"):
        done = run("mount", str(tmp_path / name), "--size", "4M")
        assert done.exit_code == ExitCode.USAGE
        assert done.stderr.startswith(f"error: {tmp_path / name} ")
        assert "\nhint: " in done.stderr
    assert not run_dir.exists()


def test_a_state_directory_under_the_mount_is_refused(run: Run, mountpoint: str) -> None:
    done = run("mount", mountpoint, "--size", "4M", "--state-dir", f"{mountpoint}/state")
    assert done.exit_code == ExitCode.USAGE
    assert "would be hidden" in done.stderr
    assert os.listdir(mountpoint) == []


def test_without_root_nothing_is_tried(run: Run, mountpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    done = run("mount", mountpoint, "--size", "4M")
    assert (done.exit_code, done.stderr) == (ExitCode.UNSUPPORTED, "error: this needs root\nhint: use sudo\n")


@pytest.mark.parametrize(
    "failure",
    [OutOfMemoryError("none left"), DaemonError("it died", hint="see daemon.log"), KeyboardInterrupt()],
    ids=lambda failure: type(failure).__name__,
)
def test_a_first_mount_that_fails_leaves_nothing_behind(
    failure: BaseException, run: Run, mountpoint: str, fake_host: FakeHost, run_dir: Path, tmp_path: Path
) -> None:
    fake_host.failure = failure
    (tmp_path / "state").mkdir()
    for arguments in ([], ["--state-dir", str(tmp_path / "state")], ["--state-dir", str(tmp_path / "new")]):
        done = run("mount", mountpoint, "--size", "4M", *arguments)
        assert done.exit_code == (130 if isinstance(failure, KeyboardInterrupt) else failure.exit_code)  # type: ignore[attr-defined]
        assert len(fake_host.started) == 1, "it was the daemon that failed"
        fake_host.started.clear()
        assert fake_host.regions == set()
        assert os.listdir(run_dir) == []
        assert sorted(os.listdir(tmp_path)) == ["mnt", "run", "state"]
        assert os.listdir(tmp_path / "state") == []


def test_a_failed_start_does_not_send_people_to_a_log_that_is_gone(
    run: Run, mountpoint: str, fake_host: FakeHost
) -> None:
    fake_host.failure = DaemonError("it died", hint="/run/guestmemfs/x/daemon.log has the rest")
    assert "--debug" in run("mount", mountpoint, "--size", "4M").stderr.splitlines()[-1]


# -- again -----------------------------------------------------------------------------------------------


def test_a_later_mount_needs_no_options(run: Run, stored: Instance, fake_host: FakeHost) -> None:
    done = run("mount", stored.config.mountpoint)
    assert (done.exit_code, done.stderr) == (0, "")
    assert fake_host.started == [stored.config]


def test_regression_an_interrupt_while_the_configuration_is_written_leaves_nothing(
    run: Run, mountpoint: str, fake_host: FakeHost, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = InstanceConfig.save

    def interrupted(config: InstanceConfig, state_dir: str) -> None:
        save(config, state_dir)
        raise KeyboardInterrupt

    monkeypatch.setattr(InstanceConfig, "save", interrupted)
    assert run("mount", mountpoint, "--size", "4M").exit_code == 130
    assert os.listdir(run_dir) == []


def test_regression_a_dax_directory_for_an_instance_that_is_elsewhere_is_named(
    run: Run, stored: Instance, fake_host: FakeHost, tmp_path: Path
) -> None:
    done = run("mount", stored.config.mountpoint, "--dax-dir", str(tmp_path))
    assert done.exit_code == ExitCode.USAGE
    assert "exists without --dax-dir" in done.stderr


@pytest.mark.parametrize("seen", [STOPPED, SERVING], ids=["stopped", "serving"])
def test_a_later_mount_with_other_options_says_what_is_there(
    seen: sight.Sight, run: Run, stored: Instance, see: See, fake_host: FakeHost
) -> None:
    see(seen)
    done = run("mount", stored.config.mountpoint, "--size", "66M")
    assert done.exit_code == ExitCode.USAGE
    assert done.stderr.startswith("error: instance guests exists with --size 64M, not 66M\nhint: ")
    assert fake_host.started == []


def test_a_serving_instance_is_busy(run: Run, stored: Instance, see: See, fake_host: FakeHost) -> None:
    see(SERVING)
    done = run("mount", stored.config.mountpoint)
    assert done.exit_code == ExitCode.BUSY
    assert "already mounted" in done.stderr
    assert fake_host.started == []


def test_a_name_whose_instance_serves_elsewhere_is_busy(
    run: Run, stored: Instance, see: See, tmp_path: Path
) -> None:
    see(SERVING)
    (tmp_path / "other").mkdir()
    done = run("mount", str(tmp_path / "other"), "--name", "guests")
    assert done.exit_code == ExitCode.BUSY
    assert f"already mounted at {stored.config.mountpoint}" in done.stderr


def test_a_stopped_instance_may_move_to_another_mountpoint(
    run: Run, stored: Instance, tmp_path: Path, fake_host: FakeHost
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    assert run("mount", str(other), "--name", "guests").exit_code == 0
    assert registry.find("guests").config.mountpoint == str(other)
    assert fake_host.started[0].uuid_hex == stored.config.uuid_hex


def test_a_later_mount_that_fails_changes_nothing(
    run: Run, stored: Instance, tmp_path: Path, fake_host: FakeHost
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    fake_host.failure = DaemonError("it died", hint="the log")
    done = run("mount", str(other), "--name", "guests")
    assert done.exit_code == ExitCode.DAEMON
    assert done.stderr.endswith("hint: the log\n")
    assert registry.find("guests").config == stored.config
    assert fake_host.regions == {stored.config.uuid_hex}


def test_a_dead_mount_is_detached_and_brought_back(
    run: Run, stored: Instance, see: See, fake_host: FakeHost
) -> None:
    see(DEAD)
    done = run("mount", stored.config.mountpoint)
    assert done.exit_code == 0
    assert done.stderr.startswith(f"note: {stored.config.mountpoint} was a dead mount")
    assert fake_host.unmounted == [stored.config.mountpoint]
    assert fake_host.started == [stored.config]


def test_a_daemon_that_is_just_coming_back_is_waited_for(run: Run, stored: Instance, see: See) -> None:
    see(RESTARTING, RESTARTING, RESTARTING, SERVING)
    done = run("mount", stored.config.mountpoint)
    assert done.exit_code == ExitCode.BUSY
    assert "already mounted" in done.stderr


def test_broken_configuration_is_refused_and_left_alone(run: Run, stored: Instance) -> None:
    with open(stored.paths.config, "w") as file:
        file.write("{}")
    done = run("mount", stored.config.mountpoint, "--name", "guests")
    assert done.exit_code == ExitCode.DAMAGED
    assert stored.paths.config in done.stderr
    assert Path(stored.paths.config).read_text() == "{}"


# -- memory that is gone ---------------------------------------------------------------------------------


@pytest.fixture
def lost(make_instance: Make, mountpoint: str, see: See) -> Callable[..., Instance]:
    see(sight.Sight(mount=None, has_daemon=False, holder_pid=None, has_region=False, last_words=None))
    return lambda **changes: make_instance("guests", mountpoint, **changes)


def test_after_a_reboot_an_instance_starts_empty_and_says_so(
    run: Run, lost: Callable[..., Instance], fake_host: FakeHost
) -> None:
    old = lost(boot_id="an earlier one")
    done = run("mount", old.config.mountpoint)
    assert done.exit_code == 0
    assert "(64 MiB) was of an earlier boot and is gone: starting empty" in done.stderr
    (config,) = fake_host.started
    assert config.boot_id == registry.current_boot_id()
    assert config.size_bytes == old.config.size_bytes
    assert config.uuid_hex != old.config.uuid_hex, "metadata of the old region must not be taken for ours"


def test_after_a_reboot_the_size_may_be_another(
    run: Run, lost: Callable[..., Instance], fake_host: FakeHost
) -> None:
    old = lost(boot_id="an earlier one")
    assert run("mount", old.config.mountpoint, "--size", "128M").exit_code == 0
    assert fake_host.started[0].size_bytes == 128 * MIB


def test_memory_that_vanished_without_a_reboot_is_begun_anew_only_on_request(
    run: Run, lost: Callable[..., Instance], fake_host: FakeHost
) -> None:
    old = lost()
    done = run("mount", old.config.mountpoint)
    assert done.exit_code == ExitCode.USAGE
    assert "is gone although the host was not booted" in done.stderr
    assert fake_host.started == []
    done = run("mount", old.config.mountpoint, "--size", "64M")
    assert done.exit_code == 0
    assert "starting empty" in done.stderr


def test_a_fresh_start_that_fails_leaves_the_old_configuration(
    run: Run, lost: Callable[..., Instance], fake_host: FakeHost
) -> None:
    old = lost(boot_id="an earlier one")
    fake_host.failure = OutOfMemoryError("none left")
    assert run("mount", old.config.mountpoint).exit_code == ExitCode.NO_MEMORY
    assert registry.find("guests").config == old.config
    assert fake_host.regions == set()


# -- state directories -----------------------------------------------------------------------------------


def test_a_state_directory_knows_whose_it_is(run: Run, mountpoint: str, tmp_path: Path, see: See) -> None:
    see(STOPPED)
    state_dir = str(tmp_path / "state")
    assert run("mount", mountpoint, "--size", "4M", "--name", "vms", "--state-dir", state_dir).exit_code == 0
    registry_entry = Path(registry.run_dir(), "vms")
    registry_entry.unlink()  # /run is empty after a boot
    assert run("mount", mountpoint, "--state-dir", state_dir).exit_code == 0
    assert registry.find("vms").paths.state_dir == state_dir
    done = run("mount", mountpoint, "--name", "others", "--state-dir", state_dir)
    assert done.exit_code == ExitCode.USAGE
    assert f"{state_dir} holds the state of instance vms, not others" in done.stderr


# -- foreground ------------------------------------------------------------------------------------------


class Became(Exception):
    """The process would be the daemon now."""


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    commands: list[list[str]] = []

    def execv(path: str, argv: list[str]) -> None:
        commands.append(argv)
        raise Became

    monkeypatch.setattr(mounting.os, "execv", execv)
    return commands


def test_in_the_foreground_we_become_the_daemon(
    run: Run, stored: Instance, executed: list[list[str]], fake_host: FakeHost
) -> None:
    run("mount", stored.config.mountpoint, "--foreground")
    assert executed == [launch.daemon_argv(stored.paths.state_dir)]
    assert fake_host.started == []


def test_regression_memory_that_nobody_would_keep_is_refused_before_anything_is_made(
    run: Run, mountpoint: str, executed: list[list[str]], fake_host: FakeHost, run_dir: Path
) -> None:
    done = run("mount", mountpoint, "--size", "4M", "--region", "memfd", "--foreground")
    assert (done.exit_code, executed) == (ExitCode.UNSUPPORTED, [])
    assert not run_dir.exists()


def test_a_connection_from_systemd_is_served_on_not_detached(
    run: Run,
    stored: Instance,
    see: See,
    executed: list[list[str]],
    fake_host: FakeHost,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    see(DEAD)  # as it looks between a crash and the restart: no holder, and nobody has the lock
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_FDNAMES", fdnames.FUSE)
    run("mount", stored.config.mountpoint, "--foreground")
    assert len(executed) == 1
    assert fake_host.unmounted == []
