"""The record beside a state file: it comes back as it was, and anything else is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from guestmemfs_fuse.vm import record
from guestmemfs_fuse.vm.errors import RecordError
from guestmemfs_fuse.vm.record import SavedGuest

SAVED = SavedGuest(
    is_ram_in_place=True,
    uses_cpr=False,
    was_running=True,
    ram_paths=("/mnt/guest one",),
    state_bytes=319794,
    qemu_version="7.2.22",
    qmp_path="/run/qmp.sock",
    command=("qemu-system-x86_64", "-m", "512M"),
    directory="/",
)


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    record.write_record(tmp_path / "state", SAVED)
    assert record.read_record(tmp_path / "state") == SAVED
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]
    assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o600


def test_a_missing_record_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"state\.json: No such file"):
        record.read_record(tmp_path / "state")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"format": 1}',
        record.encode(SAVED).replace(b"was_running", b"was_sleeping"),
        record.encode(SAVED).replace(b'"format": 1', b'"format": 2'),
    ],
)
def test_anything_else_is_refused_and_names_the_file(raw: bytes) -> None:
    with pytest.raises(RecordError, match=r"state\.json"):
        record.decode(raw, "state.json")
