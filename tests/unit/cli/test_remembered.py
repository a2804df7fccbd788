"""What a reboot took is remembered outside of /run, told once the unit starts, and listed until it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from guestmemfs_fuse.cli import mounting, remembered, unit_start, unit_state
from guestmemfs_fuse.cli.remembered import Remembered
from guestmemfs_fuse.cli.wishes import Replaced, Wishes
from guestmemfs_fuse.metadata import instance as registry

MIB = 1 << 20
EARLIER = Remembered("another-boot", "tmpfs", 64 * MIB, "/srv/guests")


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_dir: Path) -> Path:
    """/var/lib/guestmemfs of a host whose registry is run_dir."""
    directory = tmp_path / "notes"
    directory.mkdir()
    monkeypatch.setattr(remembered, "DIRECTORY", str(directory))
    monkeypatch.setattr(remembered, "DEFAULT_RUN_DIR", str(run_dir))
    return directory


def started(
    name: str, notes: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str = "tmpfs"
) -> Wishes:
    """What a start of the unit asks mount_instance for."""
    asked: list[Wishes] = []
    monkeypatch.setattr(mounting, "mount_instance", asked.append)
    (tmp_path / f"{name}.toml").write_text(
        f'mountpoint = "{tmp_path}/m"\nsize = "32M"\nregion = "{kind}"\n'
        + (f'dax-dir = "{tmp_path}"\n' if kind == "dax" else "")
    )
    unit_start.start_unit(f"{tmp_path}/{name}.toml", {"STATE_DIRECTORY": str(notes)})
    return asked[0]


@pytest.mark.parametrize("kind", ["tmpfs", "memfd", "hugetlb"])
def test_a_start_after_a_boot_says_what_is_gone_and_hands_it_on(
    notes: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    remembered.write(str(notes), "vm1", replace(EARLIER, kind=kind))
    assert started("vm1", notes, monkeypatch, tmp_path, kind).replaces == Replaced(kind, 64 * MIB)
    assert "(64 MiB) was of an earlier boot and is gone: starting empty" in capsys.readouterr().err
    now = remembered.read(str(notes), "vm1")
    assert now == Remembered(registry.current_boot_id(), kind, 32 * MIB, f"{tmp_path}/m")


@pytest.mark.parametrize(
    "note", [Remembered(registry.current_boot_id(), "tmpfs", 1), Remembered("other", "dax", 1)]
)
def test_memory_of_this_boot_and_of_dax_is_not_called_gone(
    notes: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, note: Remembered
) -> None:
    remembered.write(str(notes), "vm1", note)
    assert started("vm1", notes, monkeypatch, tmp_path, note.kind).replaces is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"boot_id": 1}', "\x00"])
def test_a_damaged_note_is_no_note(
    notes: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    (notes / "vm1.json").write_text(text)
    assert started("vm1", notes, monkeypatch, tmp_path).replaces is None


def test_units_that_nobody_started_are_listed_as_lost(
    notes: Path, run: Callable[..., Result], run_json: Callable[..., Any]
) -> None:
    remembered.write(str(notes), "vm1", EARLIER)
    remembered.write(str(notes), "vm2", Remembered(registry.current_boot_id(), "tmpfs", 1))
    (row,) = run_json("list")
    assert (row["name"], row["condition"], row["mountpoint"]) == ("vm1", "lost", "/srv/guests")
    assert "`systemctl start guestmemfs@vm1` starts empty" in row["advice"]
    assert "64 MiB tmpfs) is gone" in run("list").stderr


def test_what_systemd_carried_through_a_kexec_is_not_listed_as_lost(
    notes: Path, run: Callable[..., Result], run_json: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unit_state, "keeps_memory", lambda name: name == "vm1")
    monkeypatch.setattr(unit_state, "release_memory", lambda name: name == "vm1")
    for name in ("vm1", "vm2"):
        remembered.write(str(notes), name, replace(EARLIER, kind="memfd"))
    rows = {row["name"]: row for row in run_json("list")}
    assert (rows["vm1"]["condition"], rows["vm2"]["condition"]) == ("stopped", "lost")
    assert "`systemctl start guestmemfs@vm1` brings it back" in rows["vm1"]["advice"]
    assert "what systemd carried" in run("destroy", "vm1", "--yes").output


def test_destroy_forgets_the_note(notes: Path, run: Callable[..., Result]) -> None:
    remembered.write(str(notes), "vm1", EARLIER)
    assert run("destroy", "vm1").exit_code == 3
    assert "is forgotten" in run("destroy", "vm1", "--yes").output
    assert list(notes.iterdir()) == []
    assert run("destroy", "vm1", "--yes").exit_code == 3


def test_a_private_registry_has_nothing_to_do_with_units(
    notes: Path, monkeypatch: pytest.MonkeyPatch, run_json: Callable[..., Any]
) -> None:
    remembered.write(str(notes), "vm1", EARLIER)
    monkeypatch.setattr(remembered, "DEFAULT_RUN_DIR", "/run/guestmemfs")
    assert run_json("list") == []
    assert not remembered.forget("vm1")
