"""`destroy`: the only command that lets go of memory, and only when told twice."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from guestmemfs_fuse.cli import busy, destroying, offline
from guestmemfs_fuse.cli.busy import Use
from guestmemfs_fuse.core.errors import CorruptMetadataError, ExitCode, InstanceBusyError
from guestmemfs_fuse.handover import launch
from guestmemfs_fuse.metadata.instance import Instance
from guestmemfs_fuse.region import choose
from tests.unit.cli.fakes import LOST, SERVING, STOPPED

Run = Callable[..., Result]
See = Callable[..., None]


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
    see(SERVING)
    done = run("destroy", "guests", "--yes")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == "instance guests is gone, its memory given back\n"
    assert effects == ["unmount", "drop", "region"]
    assert os.listdir(run_dir) == []


@pytest.mark.parametrize("seen", [STOPPED, LOST], ids=["stopped", "lost"])
def test_what_is_not_mounted_is_destroyed_too(
    seen: object, run: Run, see: See, effects: Effects, run_dir: Path
) -> None:
    see(seen)
    assert run("destroy", "guests", "--yes").exit_code == 0
    assert effects == ["drop", "region"]
    assert os.listdir(run_dir) == []


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
    assert effects == ["drop", "region"]


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
    done = run("destroy", "guests", "--yes", "--force")
    assert done.exit_code == 0
    assert "note: /mnt/guests is busy: bash[9] works in it" in done.stderr
    assert effects == ["detach", "drop", "region"]


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
    assert effects == ["drop", "region"]


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
