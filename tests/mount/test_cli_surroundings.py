"""The commands in odd surroundings: without standard streams, with less privilege than uid 0 promises."""

from __future__ import annotations

import os
import resource
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from guestmemfs_fuse.core.errors import ExitCode
from guestmemfs_fuse.linux import process
from tests.cli import COMMAND, Guestmemfs
from tests.require import require


def _in_shell(guestmemfs: Guestmemfs, script: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "GUESTMEMFS_RUN_DIR": str(guestmemfs.run_dir)}
    return subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, timeout=60)


def test_regression_closed_streams_cost_no_holder(guestmemfs: Guestmemfs, tmp_path: Path) -> None:
    """The pipe to the starter was descriptor 0, and the holder puts /dev/null there."""
    arguments = ["mount", str(tmp_path), "--name", "gm", "--size", "64M", "--region", "memfd"]
    done = _in_shell(guestmemfs, f"{COMMAND} {shlex.join(arguments)} <&- >&- 2>&-")
    assert done.returncode == 0
    (listed,) = guestmemfs.json("list")
    assert process.children(listed["holder_pid"]) == [listed["daemon_pid"]]


def test_regression_limits_of_the_shell_do_not_hold_for_the_daemon(
    guestmemfs: Guestmemfs, tmp_path: Path
) -> None:
    """Under `ulimit -f` no file could grow beyond that, whoever asked: EIO."""
    arguments = ["mount", str(tmp_path), "--name", "gm", "--size", "64M"]
    limited = "ulimit -S -f 1000 -t 100 -v 20000000 -d 10000000"
    done = _in_shell(guestmemfs, f"{limited}; {COMMAND} {shlex.join(arguments)}")
    assert done.returncode == 0
    with open(tmp_path / "ram", "wb") as ram:
        ram.truncate(4 << 20)
    daemon = guestmemfs.json("list")[0]["daemon_pid"]
    names = (resource.RLIMIT_FSIZE, resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_DATA)
    soft_limits = [resource.prlimit(daemon, name)[0] for name in names]
    assert soft_limits == [resource.getrlimit(name)[1] for name in names]


@pytest.mark.parametrize("closed", ["<&-", "<&- >&-", "2>&-"])
def test_regression_a_program_that_takes_our_place_has_closed_what_was_closed(
    guestmemfs: Guestmemfs, tmp_path: Path, closed: str
) -> None:
    """It had /dev/null in the place of its standard input."""
    look = "for fd in 0 1 2; do test -e /proc/self/fd/$fd || echo $fd; done"
    program = shlex.join(["bash", "-c", f"({look}) >{tmp_path}/closed"])
    assert _in_shell(guestmemfs, f"{program} {closed}").returncode == 0
    expected = (tmp_path / "closed").read_text()
    assert _in_shell(guestmemfs, f"{COMMAND} run -- {program} {closed}").returncode == 0
    assert (tmp_path / "closed").read_text() == expected != ""


def test_regression_a_closed_stdout_is_no_internal_error(guestmemfs: Guestmemfs) -> None:
    guestmemfs.mount("gm")
    done = _in_shell(guestmemfs, f"{COMMAND} list >&-")
    assert (done.returncode, done.stderr) == (0, "")


def test_regression_an_error_out_of_a_nursery_is_said_without_a_traceback(
    guestmemfs: Guestmemfs, tmp_path: Path
) -> None:
    arguments = ["mount", str(tmp_path), "--name", "gm", "--size", "64M", "--foreground"]
    done = _in_shell(guestmemfs, f"NOTIFY_SOCKET=/nonexistent/socket {COMMAND} {shlex.join(arguments)}")
    assert done.returncode == ExitCode.DAEMON
    assert "the fd store cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("wrapper", "reason"),
    [
        (["unshare", "--user", "--map-root-user", "--mount"], "inside a user namespace"),
        (["setpriv", "--bounding-set=-sys_admin"], "uid 0 without CAP_SYS_ADMIN"),
    ],
    ids=["user-namespace", "capability"],
)
def test_regression_a_mount_without_privilege_is_refused(
    wrapper: Sequence[str], reason: str, guestmemfs: Guestmemfs, tmp_path: Path
) -> None:
    """In a user namespace `mount` succeeded, and the daemon then died again and again."""
    require(subprocess.run([*wrapper, "true"], check=False).returncode == 0, " ".join(wrapper))
    arguments = ["mount", str(tmp_path), "--name", "gm", "--size", "64M"]
    done = _in_shell(guestmemfs, shlex.join([*wrapper, str(COMMAND), *arguments]))
    assert (done.returncode, done.stdout) == (ExitCode.UNSUPPORTED, "")
    assert done.stderr.startswith(f"error: {reason}")
    assert list(guestmemfs.run_dir.glob("*")) == []
