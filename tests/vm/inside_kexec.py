"""Runs inside the VM, before and after a kexec: a guest that must not notice that its kernel was replaced.

    python -m tests.vm.inside_kexec KIND before|after

KIND is dax or memfd. `before` leaves the guest saved and everything unmounted; `after` brings it back. What
was seen and when goes to $VM_OUT. Times are taken from the host: the machine's own clocks begin anew.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.cli import COMMAND
from tests.guest.measure import checksum, mapping_of, write_pattern
from tests.guest.rig import ANSWER_TIMEOUT_S, Guest, wait_until

from . import tiny_guest

OUT = Path(os.environ.get("VM_OUT", "."))
WORK, MOUNTPOINT, PMEM = Path("/run/work"), Path("/mnt/guests"), Path("/mnt/pmem")
NAME, REGION_MIB, GUEST_MIB = "guests", 160, 64


def stamp(name: str) -> None:
    """Note the host's time: a file written through virtiofs has its mtime from there."""
    path = OUT / f"at-{name}"
    path.write_text("")
    path.write_text(str(path.stat().st_mtime_ns))


def sh(command: str) -> None:
    subprocess.run(command, shell=True, check=True)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(COMMAND), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def guestmemfs(*arguments: object) -> str:
    done = run(*arguments)
    if done.returncode:
        what = " ".join(map(str, arguments))
        raise SystemExit(f"guestmemfs {what}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


def as_json(*arguments: object) -> Any:
    return json.loads(guestmemfs(*arguments, "--json"))


def note(name: str, value: object) -> None:
    (OUT / name).write_text(json.dumps(value, indent=1))


def a_guest() -> Guest:
    WORK.mkdir(exist_ok=True)
    return Guest(tiny_guest.boot_files(), WORK, MOUNTPOINT / "ram", GUEST_MIB, pattern_mib=4)


def region_options(kind: str) -> list[str]:
    return ["--region", kind, *(["--dax-dir", str(PMEM)] if kind == "dax" else [])]


def state_path(kind: str) -> Path:
    """Where the state of the devices outlives the kernel: beside the memory, or with the host."""
    return PMEM / "ram.state" if kind == "dax" else OUT / "ram.state"


# -- before ------------------------------------------------------------------------------------------------


def before(kind: str) -> None:
    MOUNTPOINT.mkdir()
    if kind == "dax":
        PMEM.mkdir()
        refused_without_dax()
        sh("mkfs.ext4 -q -b 4096 -O bigalloc -C 2M -m 0 /dev/pmem0")
        sh(f"mount -o dax=always /dev/pmem0 {PMEM}")
    guestmemfs("mount", MOUNTPOINT, "--name", NAME, "--size", f"{REGION_MIB}M", *region_options(kind))
    guest = a_guest()
    guest.start()
    free_mib = as_json("status", NAME)["region"]["free_bytes"] >> 20
    # To the last block, but where a byte more is tried out.
    pattern = write_pattern(MOUNTPOINT / "pattern", free_mib - (2 if kind == "memfd" else 0))
    if kind == "memfd":
        preserve_and_abort()
    status = as_json("status", NAME)
    guest.wait_progress(3)
    # Nothing of this depends on the guest: it happens before the guest stops.
    sh("vm-kexec --load")
    stamp("save")
    saved = as_json("vm", "save", "--qmp", guest.qmp_path, "--state", state_path(kind))
    stamp("saved")
    note("before", {"pattern": pattern, "count": guest.count(), "saved": saved, "status": status})
    (OUT / "serial-before").write_bytes(guest.serial_log.read_bytes())
    stamp("umount")
    if kind == "memfd":
        guestmemfs("liveupdate", "preserve", NAME)
    else:
        guestmemfs("umount", NAME)
        sh(f"umount {PMEM}")
    stamp("kexec")


def preserve_and_abort() -> None:
    """What a preserved instance allows, that it stays so whoever dies, and that all of it can be undone."""
    guestmemfs("liveupdate", "preserve", NAME)
    frozen = {**modifications(), "thaw": run("thaw", NAME).returncode, "state": state()}
    os.kill(as_json("status", NAME)["daemon_pid"], signal.SIGKILL)
    wait_until(lambda: state() != "stopped", ANSWER_TIMEOUT_S)  # the holder starts the next daemon
    survives = {"sigkill": state()}
    guestmemfs("restart", NAME)
    survives["restart"] = state()
    guestmemfs("liveupdate", "preserve", NAME, "--abort")
    note(
        "preserved",
        {"frozen": frozen, "survives": survives, "aborted": {**modifications(), "state": state()}},
    )


def state() -> str:
    return str(as_json("status", NAME)["state"])


def modifications() -> dict[str, str | None]:
    """The error of each, None where it is allowed; leaves nothing behind."""
    new = MOUNTPOINT / "new"

    def create() -> None:
        new.touch()
        new.unlink()

    def truncate() -> None:
        path = MOUNTPOINT / "pattern"
        os.truncate(path, path.stat().st_size + 1)
        os.truncate(path, path.stat().st_size - 1)

    found: dict[str, str | None] = {}
    for name, change in (("create", create), ("truncate", truncate)):
        try:
            change()
            found[name] = None
        except OSError as error:
            found[name] = errno.errorcode[error.errno or 0]
    return found


def refused_without_dax() -> None:
    """A directory that is not DAX is refused, and nothing stays in it."""
    elsewhere = WORK / "no-dax"
    elsewhere.mkdir(parents=True)
    done = run("mount", MOUNTPOINT, "--size", "16M", "--region", "dax", "--dax-dir", elsewhere)
    note("refused", {"exit": done.returncode, "said": done.stderr, "left": os.listdir(elsewhere)})


# -- after -------------------------------------------------------------------------------------------------


def after(kind: str) -> None:
    stamp("userspace")
    MOUNTPOINT.mkdir(exist_ok=True)
    if kind == "dax":
        PMEM.mkdir()
        sh(f"mount -o dax=always /dev/pmem0 {PMEM}")
    stamp("mount")
    guestmemfs("mount", MOUNTPOINT, *region_options(kind), *(["--name", NAME] if kind == "memfd" else []))
    stamp("mounted")
    guest = a_guest()
    guest.serial_log.write_bytes((OUT / "serial-before").read_bytes())
    restored = as_json("vm", "restore", "--state", state_path(kind))
    stamp("restored")
    guest.adopt(restored["pid"])
    began = json.loads((OUT / "before").read_text())
    guest.wait_count(began["count"] + 3, ANSWER_TIMEOUT_S)
    status = as_json("status", NAME)
    intact = guest.pattern_now() == guest.pattern_at_boot()
    note(
        "after",
        {
            "pattern": checksum(MOUNTPOINT / "pattern"),
            "counts": guest.counts(),
            "complaints": guest.complaints(),
            "ram_intact": intact,
            "ram_mapped": asdict(mapping_of(restored["pid"], MOUNTPOINT / "ram")),
            "restored": restored,
            "status": status,
            "fsck": json.loads(run("fsck", NAME, "--json").stdout),  # what it found, whatever that is
            "uptime_s": time.monotonic(),
        },
    )
    guest.kill()
    guestmemfs("umount", NAME)
    guestmemfs("destroy", NAME, "--yes")
    if kind == "dax":
        note("left", sorted(os.listdir(PMEM)))
        sh(f"umount {PMEM}; e2fsck -fn /dev/pmem0")


if __name__ == "__main__":
    {"before": before, "after": after}[sys.argv[2]](sys.argv[1])
