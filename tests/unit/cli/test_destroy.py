"""`destroy`: the only command that lets go of memory, and only when told twice."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result

from guestmemfs_fuse.cli import busy, claim, destroying, offline, settling
from guestmemfs_fuse.cli.busy import Use
from guestmemfs_fuse.core.errors import CorruptMetadataError, ExitCode, InstanceBusyError
from guestmemfs_fuse.handover import launch
from guestmemfs_fuse.metadata.instance import Instance
from guestmemfs_fuse.region import choose, hugetlb_reserve
from tests.unit.cli.fakes import LOST, SERVING, STOPPED

Run = Callable[..., Result]
See = Callable[..., None]


NOBODY = 2**22 + 1
"""A pid that no process has."""


class Effects(list[str]):
    """What was done, in order."""


@pytest.fixture(autouse=True)
def effects(monkeypatch: pytest.MonkeyPatch) -> Effects:
    done = Effects()
    monkeypatch.setattr(choose, "destroy_region", lambda config, paths: done.append("region"))
    monkeypatch.setattr(
        destroying,
        "unmount",
        lambda instance, seen, lazily=False: done.append("detach" if lazily else "unmount"),
    )
    monkeypatch.setattr(launch, "drop_kept", lambda state_dir: done.append("drop"))
    monkeypatch.setattr(offline, "devices", lambda instance: [(0, 66)])
    monkeypatch.setattr(busy, "uses_of_files", lambda devices: [])
    return done


@pytest.fixture(autouse=True)
def instance(make_instance: Callable[..., Instance]) -> Instance:
    return make_instance()


def test_without_yes_nothing_happens(run: Run, see: See, effects: Effects, instance: Instance) -> None:
    see(SERVING)
    done = run("destroy", "guests")
    assert done.exit_code == ExitCode.USAGE
    assert "gives up all files of instance guests (64 MiB)" in done.stderr
    assert "--yes" in done.stderr
    assert effects == []
    assert os.path.exists(instance.paths.config)


def test_it_unmounts_then_gives_back_then_forgets(
    run: Run, see: See, effects: Effects, instance: Instance, run_dir: Path
) -> None:
    see(SERVING, STOPPED)
    done = run("destroy", "guests", "--yes")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == "instance guests is gone, its memory given back\n"
    assert effects == ["unmount", "region"]
    assert os.listdir(run_dir) == []


@pytest.mark.parametrize("seen", [STOPPED, LOST], ids=["stopped", "lost"])
def test_what_is_not_mounted_is_destroyed_too(
    seen: object, run: Run, see: See, effects: Effects, run_dir: Path
) -> None:
    see(seen)
    assert run("destroy", "guests", "--yes").exit_code == 0
    assert effects == ["region"]
    assert os.listdir(run_dir) == []


def test_the_holder_of_a_stopped_memfd_region_lets_go_of_it(
    run: Run, see: See, effects: Effects, make_instance: Callable[..., Instance]
) -> None:
    paths = make_instance("memory", kind="memfd").paths
    Path(paths.notify_sock).touch()
    keeps = replace(STOPPED, holder_pid=NOBODY)
    see(keeps, keeps, STOPPED)
    assert run("destroy", "memory", "--yes").exit_code == 0
    assert effects == ["drop", "region"]


def test_what_is_just_coming_up_is_unmounted_when_it_has_come(
    run: Run, see: See, effects: Effects, run_dir: Path
) -> None:
    """Its mount command was killed: holder without daemon, daemon with the lock, then the mount."""
    without_daemon = replace(STOPPED, holder_pid=NOBODY)
    without_mount = replace(without_daemon, has_daemon=True)
    see(without_daemon, without_mount, replace(SERVING, holder_pid=NOBODY), STOPPED)
    assert run("destroy", "guests", "--yes").exit_code == 0
    assert effects == ["unmount", "region"]
    assert os.listdir(run_dir) == []


def test_what_mounts_after_we_looked_is_unmounted_too(run: Run, see: See, effects: Effects) -> None:
    see(STOPPED, replace(SERVING, holder_pid=NOBODY), STOPPED)
    assert run("destroy", "guests", "--yes").exit_code == 0
    assert effects == ["unmount", "region"]


def test_a_daemon_that_never_settles_is_an_error_and_loses_nothing(
    run: Run, see: See, effects: Effects, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "SETTLES_WITHIN_S", 0.0)
    see(replace(STOPPED, holder_pid=NOBODY, has_daemon=True))
    done = run("destroy", "guests", "--yes")
    assert done.exit_code == ExitCode.DAEMON
    assert "the daemon of guests does not end\nhint: --force kills it" in done.stderr
    assert effects == []
    assert os.path.exists(instance.paths.config)


def test_what_the_command_before_us_wrote_down_counts(
    run: Run, see: See, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount that was killed while destroy waited for its claim had taken pages."""
    given_back: list[object] = []
    monkeypatch.setattr(
        hugetlb_reserve, "give_back", lambda config, boot_id, save: given_back.append(config.options)
    )
    see(STOPPED)
    later = replace(instance.config, options={"reserve": {"pages": 7, "floor": None}})
    with monkeypatch.context() as context:
        context.setattr(claim, "_lock", lambda fd, path, timeout_s: later.save(path))
        assert run("destroy", "guests", "--yes").exit_code == 0
    assert given_back == [later.options]


def test_memory_in_use_is_not_taken_without_force(
    run: Run, see: See, effects: Effects, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    see(STOPPED)
    asked = []

    def uses(devices: object) -> list[Use]:
        asked.append(devices)
        return [Use(7, "qemu", "maps 4 GiB")]

    monkeypatch.setattr(busy, "uses_of_files", uses)
    done = run("destroy", "guests", "--yes")
    assert done.exit_code == ExitCode.BUSY
    assert "in use: qemu[7] maps 4 GiB" in done.stderr
    assert asked == [[(0, 66)]], "mounts that are gone count as long as somebody maps files of them"
    assert effects == []
    assert os.path.exists(instance.paths.config)
    done = run("destroy", "guests", "--yes", "--force")
    assert done.exit_code == 0
    assert "given back when its last user ends: qemu[7]" in done.stderr
    assert effects == ["region"]


def test_force_detaches_a_mount_that_stays_busy(
    run: Run, see: See, effects: Effects, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(instance: Instance, seen: object, lazily: bool = False) -> None:
        if not lazily:
            raise InstanceBusyError("/mnt/guests is busy: bash[9] works in it")
        effects.append("detach")

    see(SERVING)
    monkeypatch.setattr(destroying, "unmount", refuse)
    done = run("destroy", "guests", "--yes")
    assert done.exit_code == ExitCode.BUSY
    assert effects == []
    see(SERVING, SERVING, STOPPED)
    done = run("destroy", "guests", "--yes", "--force")
    assert done.exit_code == 0
    assert "note: /mnt/guests is busy: bash[9] works in it" in done.stderr
    assert effects == ["detach", "region"]


def test_unreadable_metadata_is_no_licence_to_take_memory(
    run: Run, see: See, effects: Effects, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(instance: Instance) -> None:
        raise CorruptMetadataError("snapshot-0 has a wrong checksum")

    see(STOPPED)
    monkeypatch.setattr(offline, "devices", refuse)
    done = run("destroy", "guests", "--yes")
    assert done.exit_code == ExitCode.DAMAGED
    assert "snapshot-0 has a wrong checksum" in done.stderr
    assert effects == []
    assert run("destroy", "guests", "--yes", "--force").exit_code == 0
    assert effects == ["region"]


def test_a_broken_instance_goes_only_by_force(
    run: Run, effects: Effects, instance: Instance, run_dir: Path
) -> None:
    Path(instance.paths.config).write_text("nonsense")
    done = run("destroy", "guests", "--yes")
    assert done.exit_code == ExitCode.DAMAGED
    assert "--yes --force" in done.stderr
    assert os.path.exists(instance.paths.config)
    assert run("destroy", "guests", "--yes", "--force").exit_code == 0
    assert os.listdir(run_dir) == []
