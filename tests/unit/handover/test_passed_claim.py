"""A claim goes on over exec, and ends with `release`, whatever the environment says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from guestmemfs_fuse.cli.claim import claimed
from guestmemfs_fuse.core.errors import InstanceBusyError
from guestmemfs_fuse.handover import passed_claim


def is_claimed(state_dir: Path) -> bool:
    try:
        with claimed(str(state_dir), timeout_s=0):
            return False
    except InstanceBusyError:
        return True


def test_a_passed_claim_lasts_until_it_is_released(tmp_path: Path) -> None:
    environ: dict[str, str] = {}
    with claimed(str(tmp_path)) as claim:
        passed = os.dup(claim.fd)  # as after the exec: the block does not end it
        passed_claim.pass_on(environ, passed)
    assert os.get_inheritable(passed) and is_claimed(tmp_path)
    passed_claim.release(environ, str(tmp_path))
    assert not is_claimed(tmp_path) and environ == {}
    passed_claim.release(environ, str(tmp_path))


@pytest.mark.parametrize("text", ["", "seven", "-1", "123456"])
def test_nonsense_in_the_environment_is_ignored(tmp_path: Path, text: str) -> None:
    environ = {passed_claim.VARIABLE: text}
    passed_claim.release(environ, str(tmp_path))
    assert environ == {}


def test_a_descriptor_of_something_else_stays_open(tmp_path: Path) -> None:
    fd = os.open(os.devnull, os.O_RDONLY)
    passed_claim.release({passed_claim.VARIABLE: str(fd)}, str(tmp_path))
    os.close(fd)
