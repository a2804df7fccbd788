"""The main job on a real guest: kill and upgrade everything underneath it, and it goes on.

Run by `make demo`, as root. Drives the public command line and QEMU's monitor only; measures what it says
and exits non-zero as soon as one step does not hold. Whatever happens, guest, instance and files are gone
afterwards.
"""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from demo_narrator import Narrator, StepFailed, mebibytes, milliseconds  # noqa: E402

from guestmemfs_fuse.core.errors import GuestmemfsError  # noqa: E402
from guestmemfs_fuse.linux import mountinfo  # noqa: E402
from guestmemfs_fuse.vm.monitor import connect  # noqa: E402
from guestmemfs_fuse.vm.restore import restore  # noqa: E402
from guestmemfs_fuse.vm.save import SaveReport, save  # noqa: E402
from tests import leftovers  # noqa: E402
from tests.cli import Guestmemfs, Instance  # noqa: E402
from tests.guest import rig  # noqa: E402
from tests.guest.measure import (  # noqa: E402
    Blackout,
    blackout,
    checksum,
    mapping_of,
    timed,
    uncached_stat,
    write_pattern,
)
from tests.guest.watch import Watch  # noqa: E402

REGION_SIZE = "1G"
GUEST_MIB = 512
PATTERN_MIB = 64
GUEST_PATTERN_MIB = 32
RECOVERY_TIMEOUT_S = 20.0


class Demo:
    """The scenario: one instance, one guest, five steps."""

    def __init__(self, directory: Path, boot: rig.BootFiles, narrator: Narrator) -> None:
        self._directory = directory
        self._tell = narrator
        self._cli = Guestmemfs(directory)
        self._mountpoint = directory / "mnt"
        self._instance = Instance(self._cli, "demo", self._mountpoint)
        self._memory_path = self._mountpoint / "guest.ram"
        self._pattern_path = self._mountpoint / "pattern"
        self._checksum = ""
        guest_dir = directory / "guest"
        guest_dir.mkdir()
        self._guest = rig.Guest(boot, guest_dir, self._memory_path, GUEST_MIB, pattern_mib=GUEST_PATTERN_MIB)

    def run(self) -> None:
        """All five steps. Raises StepFailed, or what went wrong."""
        with self._guest:
            self._mount_and_boot()
            self._kill_the_daemon()
            self._restart_the_daemon()
            self._live_update()
            self._look_at_everything()
        self._give_it_back()

    def clean_up(self) -> None:
        """Give everything back, also in the middle of a step that failed."""
        self._guest.kill()
        self._cli.destroy_all()
        leftovers.sweep(self._directory)

    # -- 1 ---------------------------------------------------------------------------------------------

    def _mount_and_boot(self) -> None:
        tell = self._tell
        tell.step(1, f"A {REGION_SIZE} region, and a guest whose RAM is a file in it")
        self._mountpoint.mkdir()
        began = time.monotonic_ns()
        self._cli.run("mount", self._mountpoint, "--name", "demo", "--size", REGION_SIZE, "--region", "tmpfs")
        mounted = self._mount_entry()
        tell.check(mounted is not None, f"mounted in {milliseconds(time.monotonic_ns() - began)}")
        began = time.monotonic_ns()
        with open(self._memory_path, "xb") as file:
            os.ftruncate(file.fileno(), GUEST_MIB << 20)
        took_ns = time.monotonic_ns() - began
        tell.say(f"guest.ram: {GUEST_MIB} MiB allocated in {milliseconds(took_ns)}")
        self._checksum = write_pattern(self._pattern_path, PATTERN_MIB)
        tell.say(f"pattern: {PATTERN_MIB} MiB of random bytes through mmap, sha256 {self._checksum[:16]}…")
        began = time.monotonic_ns()
        self._guest.start()
        tell.check(
            True, f"the guest booted and counts, {milliseconds(time.monotonic_ns() - began)} after QEMU"
        )
        pattern = self._guest.pattern_at_boot()
        tell.say(
            f"it holds {GUEST_PATTERN_MIB} MiB of its own random bytes in its RAM, sha256 {pattern[:16]}…"
        )

    # -- 2 ---------------------------------------------------------------------------------------------

    def _kill_the_daemon(self) -> None:
        tell = self._tell
        tell.step(2, "SIGKILL the daemon while the guest runs")
        before = self._instance.status()
        count = self._guest.wait_progress(3)
        with Watch(self._guest, self._mountpoint) as watch:
            os.kill(before["daemon_pid"], signal.SIGKILL)
            size_bytes, stalled_ns = uncached_stat(self._memory_path)
            after = self._wait_generation(before["generation"] + 1)
            self._guest.wait_progress(10)
        tell.check(
            size_bytes == GUEST_MIB << 20,
            f"stat() issued meanwhile is right, after {milliseconds(stalled_ns)}",
        )
        self._check_watch(watch, count)
        tell.check(
            after["daemon_pid"] != before["daemon_pid"],
            f"daemon {before['daemon_pid']} -> {after['daemon_pid']}, "
            f"generation {before['generation']} -> {after['generation']}",
        )
        tell.remember("daemon killed: stat() stalled", milliseconds(stalled_ns))
        tell.remember("daemon killed: guest's longest pause", milliseconds(watch.longest_pause_ns))

    # -- 3 ---------------------------------------------------------------------------------------------

    def _restart_the_daemon(self) -> None:
        tell = self._tell
        tell.step(3, "guestmemfs restart: a new daemon under the live mount")
        before = self._instance.status()
        count = self._guest.count()
        with Watch(self._guest, self._mountpoint) as watch:
            began = time.monotonic_ns()
            self._cli.run("restart", "demo")
            took_ns = time.monotonic_ns() - began
            size_bytes, _ = uncached_stat(self._memory_path)
            self._guest.wait_progress(10)
        after = self._instance.status()
        tell.check(after["daemon_pid"] != before["daemon_pid"], f"replaced in {milliseconds(took_ns)}")
        tell.check(
            after["generation"] == before["generation"] + 1,
            f"daemon {before['daemon_pid']} -> {after['daemon_pid']}, "
            f"generation {before['generation']} -> {after['generation']}",
        )
        tell.check(size_bytes == GUEST_MIB << 20, "stat() is right")
        self._check_watch(watch, count)
        tell.remember("daemon replaced under the live mount", milliseconds(took_ns))

    # -- 4 ---------------------------------------------------------------------------------------------

    def _live_update(self) -> None:
        tell = self._tell
        tell.step(4, "Live update: save, quit QEMU, umount, mount, new QEMU, load")
        in_place = self._update_once(is_ram_in_place=True)
        tell.say("and the same guest again, saved and loaded WITH its RAM:")
        with_ram = self._update_once(is_ram_in_place=False)
        rows: list[tuple[str, ...]] = [("the guest waits for", "RAM in place", "RAM copied")]
        for label, part in (
            ("save   stop the guest, write its state", "save"),
            ("stop   QEMU quits", "quit"),
            ("       umount", "umount"),
            ("start  mount", "mount"),
            ("       new QEMU, told to wait", "start"),
            ("load   read its state, continue", "load"),
            ("       this script in between", "rest"),
            ("blackout, all together", "whole"),
        ):
            rows.append((label, *(milliseconds(getattr(b, part)) for b in (in_place, with_ram))))
        rows.append(("size of the state", mebibytes(in_place.state_bytes), mebibytes(with_ram.state_bytes)))
        tell.table(rows)
        ratio = (with_ram.save + with_ram.load) / (in_place.save + in_place.load)
        tell.check(ratio > 1, f"save and load are {ratio:.0f} times faster with the RAM left in place")
        tell.remember("live update: blackout", milliseconds(in_place.whole))
        parts = (
            in_place.save,
            in_place.quit + in_place.umount,
            in_place.mount + in_place.start,
            in_place.load,
        )
        tell.remember("  save / stop / start / load", " / ".join(map(milliseconds, parts)))
        tell.remember("  the same with its RAM copied", milliseconds(with_ram.whole))

    def _update_once(self, *, is_ram_in_place: bool) -> Blackout:
        tell, guest = self._tell, self._guest
        state_path = self._directory / "guest.state"
        saved = asyncio.run(self._save(state_path, is_ram_in_place))
        stood_at = guest.count()
        umount = timed("umount", self._instance.umount)
        tell.check(self._mount_entry() is None, f"saved at count {stood_at}, QEMU gone, unmounted")
        mount = timed("mount", self._instance.remount)
        restored = asyncio.run(restore(state_path))
        guest.adopt(restored.pid, restored.child)
        guest.wait_progress(5)
        counts = guest.counts()
        went_on_at = counts[counts.index(stood_at) + 1]
        tell.check(
            went_on_at == stood_at + 1,
            f"mounted again, a new QEMU counts on from {went_on_at} to {counts[-1]}",
        )
        return blackout(saved, umount, mount, restored)

    async def _save(self, state_path: Path, is_ram_in_place: bool) -> SaveReport:
        qmp_path = self._guest.qmp_path
        async with connect(qmp_path) as monitor:
            return await save(monitor, state_path, qmp_path=qmp_path, is_ram_in_place=is_ram_in_place)

    # -- 5 ---------------------------------------------------------------------------------------------

    def _look_at_everything(self) -> None:
        tell, guest = self._tell, self._guest
        tell.step(5, "What is left of it all: pages, bytes, metadata")
        mapped = self._cli.json("map", self._memory_path)
        fraction = mapped["huge_fraction"]
        tell.check(
            fraction == 1.0, f"guest.ram is {fraction:.0%} huge pages ({mebibytes(mapped['huge_bytes'])})"
        )
        mapping = mapping_of(guest.pid, self._memory_path)
        tell.check(
            mapping.huge_bytes == mapping.resident_bytes > 0,
            f"what QEMU has touched of it, {mebibytes(mapping.resident_bytes)}, "
            f"is all PMD mapped (/proc/{guest.pid}/smaps)",
        )
        tell.check(
            guest.pid in [user["pid"] for user in mapped["mapped_by"]],
            f"mapped by QEMU {guest.pid}, as map says",
        )
        tell.check(checksum(self._pattern_path) == self._checksum, "pattern: the checksum is what it was")
        tell.check(guest.pattern_now() == guest.pattern_at_boot(), "the guest's own pattern: what it was too")
        counts = guest.counts()
        tell.check(
            counts == list(range(1, counts[-1] + 1)) and not guest.complaints(),
            f"it counted from 1 to {counts[-1]} without a gap, a repetition or a complaint",
        )
        self._check_consistency("serving")
        tell.remember(
            "guest RAM in huge pages",
            f"{fraction:.0%} of {GUEST_MIB} MiB; all that QEMU touched is PMD mapped",
        )
        tell.remember("checksums, count, metadata", f"unchanged, 1 to {counts[-1]}, consistent")

    def _give_it_back(self) -> None:
        tell = self._tell
        self._instance.umount()
        self._check_consistency("stopped")
        self._cli.run("destroy", "demo", "--yes")
        left = leftovers.wait_gone(self._directory)
        tell.check(not left, "destroyed: no process, no mount, no memory left" + "; ".join(left.lines()))

    # -- shared ----------------------------------------------------------------------------------------

    def _mount_entry(self) -> mountinfo.MountEntry | None:
        return mountinfo.find_mountpoint(str(self._mountpoint))

    def _wait_generation(self, generation: int) -> dict[str, Any]:
        status: dict[str, Any] = {}

        def is_there() -> bool:
            status.update(self._instance.status())
            return bool(status["generation"] >= generation and status["state"] == "serving")

        self._tell.check(rig.wait_until(is_there, RECOVERY_TIMEOUT_S), "the next daemon serves")
        return status

    def _check_consistency(self, when: str) -> None:
        found = self._instance.problems()
        self._tell.check(not found, f"fsck: metadata and region agree ({when})" + "; ".join(found))

    def _check_watch(self, watch: Watch, count: int) -> None:
        tell = self._tell
        tell.check(
            watch.absences == 0 and watch.looks > 0,
            f"the mount never disappeared (looked {watch.looks} times)",
        )
        tell.check(
            self._guest.count() > count,
            f"the guest went on counting, {count} -> {self._guest.count()}, "
            f"its longest pause was {milliseconds(watch.longest_pause_ns)}",
        )


def interrupted(number: int, _frame: object) -> None:
    """SIGTERM ends the demo as Ctrl-C does: cleanly."""
    raise KeyboardInterrupt(signal.Signals(number).name)


def main() -> int:
    """Run the demo; the exit code."""
    narrator = Narrator()
    if os.geteuid() != 0:
        narrator.fail("the demo mounts filesystems: run it as root")
        return 1
    signal.signal(signal.SIGTERM, interrupted)
    began_ns = time.monotonic_ns()
    qemu = subprocess.run([rig.QEMU, "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout
    narrator.say(f"Linux {platform.release()}, {qemu.splitlines()[0]}, {os.cpu_count()} CPUs")
    with ExitStack() as cleanup:
        directory = Path(tempfile.mkdtemp(prefix="gm-demo-"))
        cleanup.callback(leftovers.remove_directory, directory)
        demo = Demo(directory, rig.boot_files(), narrator)
        cleanup.callback(demo.clean_up)
        try:
            demo.run()
        except KeyboardInterrupt:
            narrator.fail("interrupted")
            return 130
        except (StepFailed, AssertionError, rig.GuestLost, OSError, subprocess.SubprocessError) as error:
            narrator.fail(str(error))
            return 1
        except GuestmemfsError as error:
            narrator.fail(f"{error}" + (f" ({error.hint})" if error.hint else ""))
            return 1
    narrator.finish(time.monotonic_ns() - began_ns)
    return 0


if __name__ == "__main__":
    sys.exit(main())
