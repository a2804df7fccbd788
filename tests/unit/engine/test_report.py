"""Which superblocks count as ours when device numbers may have been given to others since."""

from __future__ import annotations

import os

from guestmemfs_fuse.core.state import Session, State, new_state
from guestmemfs_fuse.engine import report
from guestmemfs_fuse.linux import mountinfo

NOBODYS = (0, 0xFFFFF)  # MINORMASK: the last anonymous device number there can be


def _state(*, past: tuple[int, ...], current: int) -> State:
    state = new_state(region_bytes=4 << 20, block_bytes=2 << 20, now_ns=1)
    state.past_devices = past
    state.session = Session(b"init", current) if current else None
    return state


def test_regression_device_number_of_a_former_mount_given_to_another_filesystem() -> None:
    proc = mountinfo.find_mountpoint("/proc")
    assert proc is not None
    state = _state(past=(os.makedev(*proc.dev), os.makedev(*NOBODYS)), current=os.makedev(0, 0xFFFFE))
    assert report.devices_of(state) == [(0, 0xFFFFE), NOBODYS]


def test_the_number_of_a_mount_that_does_not_stand_any_more_may_be_anybodys() -> None:
    proc = mountinfo.find_mountpoint("/proc")
    assert proc is not None
    state = _state(past=(), current=os.makedev(*proc.dev))
    assert report.devices_of(state) == [proc.dev]
    assert report.devices_of(state, served=False) == []
