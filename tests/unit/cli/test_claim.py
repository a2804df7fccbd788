"""One command at a time."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from guestmemfs_fuse.cli import claim
from guestmemfs_fuse.cli.claim import claimed, claimed_anew, claimed_instance
from guestmemfs_fuse.core.errors import InstanceBusyError, UnknownTargetError
from guestmemfs_fuse.metadata.instance import Instance, Paths


def test_a_second_claim_is_refused_until_the_first_ends(paths: Paths) -> None:
    with (
        claimed(paths.state_dir),
        pytest.raises(InstanceBusyError, match="another guestmemfs command"),
        claimed(paths.state_dir, timeout_s=0),
    ):
        pass
    with claimed(paths.state_dir, timeout_s=0):
        pass


def test_a_claim_leaves_nothing_behind(paths: Paths) -> None:
    with claimed(paths.state_dir):
        assert os.listdir(paths.state_dir) == []


def test_a_directory_that_was_removed_while_we_waited_is_not_ours(paths: Paths) -> None:
    with claimed(paths.state_dir):
        os.rename(paths.state_dir, paths.state_dir + ".old")
        os.mkdir(paths.state_dir)
        with claimed(paths.state_dir, timeout_s=0):
            pass  # another directory of the same name is another claim
    os.rmdir(paths.state_dir)
    with pytest.raises(FileNotFoundError), claimed(paths.state_dir):
        pass


def test_a_directory_is_made_again_when_it_vanished_before_the_claim(tmp_path: Path) -> None:
    made = []

    def make() -> Paths:
        directory = tmp_path / str(len(made))
        made.append(directory)
        if len(made) > 1:
            directory.mkdir()  # the first one "was removed" right after it was made
        return Paths(str(directory))

    with claimed_anew(make) as found:
        assert found.paths.state_dir == str(made[-1])
    assert len(made) == 2


def test_regression_a_directory_that_cannot_be_made_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """`mount --state-dir /proc/gm` tried for ever."""
    monkeypatch.setattr(claim, "_ATTEMPTS", 3)
    monkeypatch.setattr(claim, "_POLL_S", 0.0)

    def make() -> Paths:
        os.mkdir("/proc/gm")
        raise AssertionError

    with pytest.raises(FileNotFoundError, match="/proc/gm"), claimed_anew(make):
        pass


def test_an_error_inside_the_block_is_no_reason_to_try_again(paths: Paths) -> None:
    calls = []

    def make() -> Paths:
        calls.append(1)
        return paths

    with pytest.raises(FileNotFoundError, match="mine"), claimed_anew(make):
        raise FileNotFoundError("mine")
    assert len(calls) == 1


def test_regression_an_instance_that_was_destroyed_meanwhile_is_said_to_be(
    paths: Paths, make_instance: Callable[..., Instance]
) -> None:
    """The second of two destroys at once named its directory, with exit code 1."""
    gone = replace(make_instance(), paths=paths)
    os.rmdir(paths.state_dir)
    with pytest.raises(UnknownTargetError, match="instance guests is gone"), claimed_instance(gone):
        pass
