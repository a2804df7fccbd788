"""The commands when something is wrong: bad input, dead daemons, dead holders, two commands at once."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from guestmemfs_fuse.cli import daemons, mounting, sight
from guestmemfs_fuse.cli.wishes import Wishes
from guestmemfs_fuse.core.errors import DaemonError, ExitCode
from guestmemfs_fuse.handover import launch
from guestmemfs_fuse.linux import mount, mountinfo, process
from guestmemfs_fuse.metadata.instance_config import current_boot_id
from tests.cli import Guestmemfs, Instance
from tests.mount.load_crew import kill
from tests.mount.user_of import user_of

MIB = 1 << 20


def _kill_both(instance: Instance) -> None:
    status = instance.status()
    kill(status["holder_pid"], status["daemon_pid"])


def _traces(guestmemfs: Guestmemfs) -> list[str]:
    """Whatever a mount that failed could have left."""
    directory = str(guestmemfs.directory)
    left = [each.mountpoint for each in mountinfo.read_mounts() if each.mountpoint.startswith(directory)]
    return left + [str(path) for path in guestmemfs.run_dir.glob("*")]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--size", "0"], ExitCode.USAGE, "out of range"),
        (["--size", "lots"], ExitCode.USAGE, "is no size"),
        ([], ExitCode.USAGE, "needs --size"),
        (["--size", "900T"], ExitCode.NO_MEMORY, "does not fit"),
        (["--size", "32M", "--numa-node", "77"], ExitCode.USAGE, "no NUMA node 77"),
        (["--size", "1G", "--page-size", "1G"], ExitCode.USAGE, "no 1G pages"),
        (["--size", "32M", "--region", "dax"], ExitCode.USAGE, "--dax-dir"),
        (["--size", "32M", "--name", "../up"], ExitCode.USAGE, "no instance name"),
    ],
)
def test_bad_options_are_one_line_and_a_hint_and_leave_nothing(
    options: list[str], code: ExitCode, message: str, guestmemfs: Guestmemfs
) -> None:
    mountpoint = guestmemfs.directory / "mnt"
    mountpoint.mkdir()
    done = guestmemfs.run("mount", mountpoint, *options, check=False)
    assert done.returncode == code
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: ")
    assert message in error
    assert hint.startswith("hint: ")
    assert _traces(guestmemfs) == []


def test_bad_mountpoints_are_refused(guestmemfs: Guestmemfs, instance: Instance) -> None:
    full = guestmemfs.directory / "full"
    full.mkdir()
    (full / "file").touch()
    (instance.mountpoint / "inside").mkdir()
    for path, message in (
        (guestmemfs.directory / "absent", "does not exist"),
        (full, "is not empty"),
        (full / "file", "is not a directory"),
        (Path("/proc"), "is a mountpoint already"),
        (instance.mountpoint / "inside", "is inside the guestmemfs mount"),
        (instance.mountpoint, "is a mountpoint already (guestmemfs instance gm)"),
    ):
        done = guestmemfs.run("mount", path, "--size", "32M", "--name", "other", check=False)
        assert done.returncode == ExitCode.USAGE, path
        assert message in done.stderr
        assert "\nhint: " in done.stderr
    assert [row["name"] for row in guestmemfs.json("list")] == ["gm"]


@pytest.mark.parametrize("options", [(), ("--state-dir", "state")], ids=["run-dir", "state-dir"])
def test_a_daemon_that_cannot_start_says_why_and_leaves_nothing(
    options: tuple[str, ...], guestmemfs: Guestmemfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    mountpoint, modules = guestmemfs.directory / "mnt", guestmemfs.directory / "modules"
    mountpoint.mkdir()
    modules.mkdir()
    (modules / "pyfuse3.py").write_text("raise ImportError('no pyfuse3 on this host')")
    monkeypatch.setenv("PYTHONPATH", str(modules))
    monkeypatch.chdir(guestmemfs.directory)
    done = guestmemfs.run("mount", mountpoint, "--size", "32M", *options, check=False)
    assert done.returncode == ExitCode.DAEMON
    assert done.stderr.startswith(
        "error: the daemon exited with status 1: ImportError: no pyfuse3 on this host\n"
    )
    assert "Traceback" not in done.stderr
    assert _traces(guestmemfs) == []
    assert not (guestmemfs.directory / "state").exists()


def test_a_later_start_that_fails_loses_nothing(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    (instance.mountpoint / "file").touch()
    instance.umount()
    modules = instance.cli.directory / "modules"
    modules.mkdir()
    (modules / "pyfuse3.py").write_text("raise ImportError('no pyfuse3 on this host')")
    with monkeypatch.context() as context:
        context.setenv("PYTHONPATH", str(modules))
        done = instance.cli.run("mount", instance.mountpoint, check=False)
    assert done.returncode == ExitCode.DAEMON
    assert (instance.state_dir / "daemon.log").exists()
    assert instance.status()["state"] == "stopped"
    instance.remount()
    assert (instance.mountpoint / "file").exists()


def test_mounting_twice_is_refused_and_harmless(instance: Instance) -> None:
    pid = instance.daemon_pid
    for arguments in ([instance.mountpoint], [instance.mountpoint, "--name", "gm", "--size", "64M"]):
        done = instance.cli.run("mount", *arguments, check=False)
        assert done.returncode == ExitCode.BUSY
        assert "already mounted" in done.stderr
    other = instance.cli.directory / "other"
    other.mkdir()
    done = instance.cli.run("mount", other, "--name", "gm", check=False)
    assert done.returncode == ExitCode.BUSY
    assert str(instance.mountpoint) in done.stderr
    assert instance.daemon_pid == pid


@pytest.mark.parametrize("is_mounted", [True, False], ids=["mounted", "stopped"])
def test_options_that_contradict_the_instance_say_what_is_there(instance: Instance, is_mounted: bool) -> None:
    if not is_mounted:
        instance.umount()
    for option, value, there in (("--size", "128M", "64M"), ("--region", "memfd", "tmpfs")):
        done = instance.cli.run("mount", instance.mountpoint, option, value, check=False)
        assert done.returncode == ExitCode.USAGE
        assert f"exists with {option} {there}, not {value}" in done.stderr


def test_regression_a_stopped_instance_has_no_hand_in_who_is_mounted_where_it_was(
    guestmemfs: Guestmemfs, instance: Instance
) -> None:
    """It was called a dead mount, and its umount and destroy took the other's live mount away."""
    cli, where = guestmemfs, instance.mountpoint
    instance.umount()
    cli.run("mount", where, "--name", "other", "--size", "64M")
    (where / "file").touch()
    state = {each["name"]: each["condition"] for each in cli.json("list")}
    assert state == {instance.name: "stopped", "other": "serving"}
    assert cli.json("status", where)["name"] == "other"
    assert cli.json("map", where / "file")["path"] == "/file"
    assert cli.run("umount", instance.name, check=False).returncode == ExitCode.FAILED
    assert cli.run("mount", where, "--name", instance.name, check=False).returncode == ExitCode.USAGE
    cli.run("destroy", instance.name, "--yes")
    assert os.listdir(where) == ["file"]
    cli.run("umount", "other")


def test_a_path_where_several_instances_were_mounted_means_none_of_them(
    guestmemfs: Guestmemfs, instance: Instance
) -> None:
    instance.umount()
    guestmemfs.run("mount", instance.mountpoint, "--name", "other", "--size", "64M")
    guestmemfs.run("umount", instance.mountpoint)
    for command in (["mount"], ["status"], ["destroy", "--yes"]):
        refused = guestmemfs.run(*command, instance.mountpoint, check=False)
        assert refused.returncode == ExitCode.USAGE
        assert f"{instance.name}, other" in refused.stderr and "by its name" in refused.stderr
    guestmemfs.run("mount", instance.mountpoint, "--name", "other")
    assert guestmemfs.json("status", instance.mountpoint)["name"] == "other"


def test_a_stopped_instance_moves_to_another_mountpoint(instance: Instance) -> None:
    (instance.mountpoint / "file").touch()
    instance.umount()
    other = instance.cli.directory / "other"
    other.mkdir()
    instance.cli.run("mount", other, "--name", instance.name)
    assert (other / "file").exists()
    assert instance.cli.json("status", other)["name"] == instance.name


def test_of_two_first_mounts_at_once_one_serves(guestmemfs: Guestmemfs) -> None:
    mountpoint = guestmemfs.directory / "mnt"
    mountpoint.mkdir()
    both = [guestmemfs.start("mount", mountpoint, "--size", "32M", "--name", "gm") for _ in range(2)]
    said = [each.communicate(timeout=60)[1] for each in both]
    assert sorted(each.returncode for each in both) in ([0, ExitCode.USAGE], [0, ExitCode.BUSY]), said
    (row,) = guestmemfs.json("list")
    assert row["condition"] == "serving"


def test_a_daemon_that_was_killed_is_back_before_status_answers(instance: Instance) -> None:
    before = instance.status()
    os.kill(before["daemon_pid"], signal.SIGKILL)
    after = instance.status()
    assert (after["state"], after["generation"]) == ("serving", before["generation"] + 1)
    assert after["holder_pid"] == before["holder_pid"]


def test_umount_right_after_a_kill_stays_unmounted(instance: Instance) -> None:
    (instance.mountpoint / "file").touch()
    holder = instance.status()["holder_pid"]
    os.kill(instance.daemon_pid, signal.SIGKILL)
    instance.umount()
    # It lets go of its pid file a moment before it ends.
    assert sight.wait_until(lambda: not process.is_alive(holder), 20)
    assert mountinfo.find_mountpoint(str(instance.mountpoint)) is None
    instance.remount()
    assert (instance.mountpoint / "file").exists()


def test_restart_replaces_a_daemon_that_hangs(instance: Instance) -> None:
    before = instance.status()
    os.kill(before["daemon_pid"], signal.SIGSTOP)
    (row,) = instance.cli.json("list")
    assert (row["condition"], row["daemon_pid"]) == ("silent", None)
    done = instance.cli.run("restart", instance.name)
    assert f"pid {before['daemon_pid']}) does not answer: killing it" in done.stderr
    after = instance.status()
    assert (after["generation"], after["holder_pid"]) == (before["generation"] + 1, before["holder_pid"])
    (instance.mountpoint / "works").touch()


def test_when_all_processes_were_killed_mount_brings_everything_back(instance: Instance) -> None:
    path = instance.mountpoint / "vm1"
    path.touch()
    os.truncate(path, 4 * MIB)
    with user_of(path) as user:
        user.write(0, "guest")
        _kill_both(instance)
        (row,) = instance.cli.json("list")
        assert (row["state"], row["condition"]) == ("stopped", "dead-mount")
        assert f"guestmemfs mount {instance.mountpoint}" in row["advice"]
        assert instance.status()["files"][0]["size_bytes"] == 4 * MIB, "read without a daemon"
        assert instance.cli.run("restart", instance.name, check=False).returncode == ExitCode.DAEMON
        done = instance.cli.run("mount", instance.mountpoint)
        assert "was a dead mount" in done.stderr
        assert user.read(0, 5) == "guest", "the guest never noticed"
        user.write(0, "GUEST")
        mapped_by = instance.status()["files"][0]["mapped_by"]
        assert [each["pid"] for each in mapped_by] == [user.pid], "through the old mount, but seen"
    with user_of(path) as user:
        assert user.read(0, 5) == "GUEST"


def test_a_dead_mount_can_be_unmounted_and_destroyed(guestmemfs: Guestmemfs) -> None:
    unmounted, destroyed = guestmemfs.mount("one"), guestmemfs.mount("two")
    _kill_both(unmounted)
    _kill_both(destroyed)
    done = guestmemfs.run("umount", "one")
    assert "was a dead mount: detached" in done.stderr
    guestmemfs.run("destroy", "two", "--yes")
    assert [(row["name"], row["condition"]) for row in guestmemfs.json("list")] == [("one", "stopped")]


def test_memory_that_somebody_unmounted_is_not_replaced_silently(instance: Instance) -> None:
    (instance.mountpoint / "file").touch()
    instance.umount()
    mount.umount(str(instance.state_dir / "region"))
    (row,) = instance.cli.json("list")
    assert row["condition"] == "lost"
    done = instance.cli.run("mount", instance.mountpoint, check=False)
    assert done.returncode == ExitCode.USAGE
    assert "is gone although the host was not booted" in done.stderr
    done = instance.cli.run("mount", instance.mountpoint, "--size", "64M")
    assert "starting empty" in done.stderr
    assert os.listdir(instance.mountpoint) == []


def test_an_instance_of_an_earlier_boot_starts_empty_and_says_so(instance: Instance) -> None:
    (instance.mountpoint / "file").touch()
    instance.umount()
    mount.umount(str(instance.state_dir / "region"))
    config = instance.state_dir / "instance.json"
    boot_id = current_boot_id()
    config.write_text(config.read_text().replace(boot_id, boot_id[::-1]))
    done = instance.cli.run("mount", instance.mountpoint)
    assert "was of an earlier boot and is gone: starting empty" in done.stderr
    assert os.listdir(instance.mountpoint) == []
    status = instance.status()
    assert (status["generation"], status["region"]["size_bytes"]) == (1, 64 * MIB)


def test_metadata_that_does_not_belong_to_the_region_is_refused(guestmemfs: Guestmemfs) -> None:
    instance = guestmemfs.mount("gm")
    (instance.mountpoint / "file").touch()
    instance.umount()
    config = instance.state_dir / "instance.json"
    text = config.read_text()
    uuid_at = text.index('"uuid_hex": "') + len('"uuid_hex": "')
    config.write_text(text[:uuid_at] + "f" * 32 + text[uuid_at + 32 :])
    for command in ("mount", "status"):
        target = instance.mountpoint if command == "mount" else "gm"
        done = guestmemfs.run(command, target, check=False)
        assert done.returncode == ExitCode.DAMAGED, done.stderr
        assert "Traceback" not in done.stderr
    config.write_text(text)
    instance.remount()
    assert (instance.mountpoint / "file").exists(), "nothing was lost by the attempts"


def test_broken_configuration_is_listed_refused_and_can_be_removed(instance: Instance) -> None:
    instance.umount()
    (instance.state_dir / "instance.json").write_text("{")
    (row,) = instance.cli.json("list")
    assert row["condition"] == "broken"
    for command in (
        ["mount", instance.mountpoint, "--name", "gm"],
        ["status", "gm"],
        ["destroy", "gm", "--yes"],
    ):
        done = instance.cli.run(*command, check=False)
        assert done.returncode == ExitCode.DAMAGED
        assert "instance.json" in done.stderr
    instance.cli.run("destroy", "gm", "--yes", "--force")
    assert instance.cli.json("list") == []


def test_a_mapped_file_is_cut_only_by_force(instance: Instance) -> None:
    path = instance.mountpoint / "vm1"
    path.touch()
    cli = instance.cli
    cli.run("resize-file", path, "--size", "8M")
    assert path.stat().st_size == 8 * MIB
    with user_of(path, length_bytes=4 * MIB) as user:
        cli.run("resize-file", path, "--size", "4M")
        refused = cli.run("resize-file", path, "--size", "2M", check=False)
        assert refused.returncode == ExitCode.FAILED
        assert f"[{user.pid}]" in refused.stderr
        assert path.stat().st_size == 4 * MIB
        cli.run("resize-file", path, "--size", "2M", "--force")
        assert path.stat().st_size == 2 * MIB
    cli.run("resize-file", path, "--size", "0")
    assert path.stat().st_size == 0


def test_regression_a_failed_mount_of_what_was_there_before_leaves_no_dead_mount(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only one that made the instance took its mount away."""
    (instance.mountpoint / "kept").touch()
    instance.umount()

    def start_and_die(state_dir: str, argv: list[str], **_options: object) -> int:
        holder = launch.spawn_holder(state_dir, argv)
        daemon = daemons.pid_by_lock(f"{state_dir}/lock")
        assert daemon is not None
        kill(holder, daemon)
        raise DaemonError("the holder ended without a word")

    monkeypatch.setenv("GUESTMEMFS_RUN_DIR", str(instance.cli.run_dir))
    with monkeypatch.context() as patched:
        patched.setattr(launch, "start_daemon", start_and_die)
        with pytest.raises(DaemonError, match="without a word"):
            mounting.mount_instance(Wishes(str(instance.mountpoint), name=instance.name))
    assert sight.our_mount(str(instance.mountpoint)) is None
    instance.remount()
    assert (instance.mountpoint / "kept").exists()


def test_regression_a_resize_whose_size_cannot_be_written_down_costs_no_daemon(instance: Instance) -> None:
    """It was journaled, and each daemon that tried to finish it ended over that: the mount was given up."""
    in_the_way = instance.state_dir / "instance.json.new"
    in_the_way.mkdir()
    instance.cli.run("resize", instance.name, "--size", "96M")
    instance.cli.run("restart", instance.name)
    os.kill(instance.daemon_pid, signal.SIGKILL)
    (instance.mountpoint / "made").touch()
    assert instance.status()["region"]["size_bytes"] == 96 * MIB
    in_the_way.rmdir()
    instance.cli.run("restart", instance.name)
    assert instance.cli.json("list")[0]["region"]["size_bytes"] == 96 * MIB
