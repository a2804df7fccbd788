"""top, metrics, map TARGET and debug-dump against a real daemon, also one that does not answer."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.cli import Guestmemfs, Instance
from tests.guest.rig import wait_until

MIB = 1 << 20
WITHIN_S = 30.0


def make(path: Path, size_bytes: int) -> None:
    with open(path, "wb") as file:
        file.truncate(size_bytes)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def served(instance: Instance) -> Iterator[str]:
    """URL of `guestmemfs metrics --metrics-listen`."""
    port = free_port()
    process = instance.cli.start("metrics", "--metrics-listen", port)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.communicate()


def get(url: str) -> str:
    deadline = time.monotonic() + WITHIN_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=WITHIN_S) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError:
            raise
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def scraped(url: str) -> dict[tuple[str, ...], float]:
    """As Prometheus understands it: name and label values to the value."""
    families = text_string_to_metric_families(get(f"{url}/metrics"))
    return {(each.name, *each.labels.values()): each.value for family in families for each in family.samples}


def test_metrics_are_scraped_over_loopback_and_follow_the_daemon(instance: Instance, served: str) -> None:
    make(instance.mountpoint / "ram", 4 * MIB)
    first = scraped(served)
    assert first["guestmemfs_up", "gm"] == first["guestmemfs_holder_up", "gm"] == 1
    assert first["guestmemfs_region_used_bytes", "gm", "tmpfs"] == 4 * MIB
    assert first["guestmemfs_data_calls_total", "gm"] == 0
    os.kill(instance.daemon_pid, signal.SIGKILL)
    assert wait_until(lambda: scraped(served).get(("guestmemfs_generation", "gm")) == 2, WITHIN_S)
    os.kill(instance.status()["holder_pid"], signal.SIGKILL)
    assert wait_until(lambda: scraped(served)["guestmemfs_holder_up", "gm"] == 0, WITHIN_S)


def test_metrics_listen_on_loopback_only(instance: Instance, served: str) -> None:
    get(served)
    port = int(served.rpartition(":")[2])
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    listening = [line.split()[1] for line in lines if line.split()[3] == "0A"]
    assert [each for each in listening if each.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]


def test_top_shows_requests_as_they_come(instance: Instance) -> None:
    process = instance.cli.start("top", instance.name, "--interval", "1", "--count", "3")
    number = 0
    while process.poll() is None:
        number += 1
        make(instance.mountpoint / "churn", number % 4 * MIB)
        time.sleep(0.01)  # the rate does not matter, only that there is one
    out, error = process.communicate()
    assert (process.returncode, error) == (0, "")
    assert out.count("REQUEST") == 3 and "setattr" in out and "/churn" in out


def test_the_picture_shows_files_holes_and_free_space(instance: Instance) -> None:
    make(instance.mountpoint / "a", 8 * MIB)
    make(instance.mountpoint / "b", 2 * MIB)
    with open(instance.mountpoint / "a", "r+b") as file:
        # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
        import ctypes

        ctypes.CDLL(None).fallocate(file.fileno(), 3, ctypes.c_long(2 * MIB), ctypes.c_long(2 * MIB))
    lines = instance.cli.run("map", instance.mountpoint).stdout.splitlines()
    assert lines[1].split() == ["0", "B", "A○AAB" + "·" * 27]
    assert "A  /a: 6 MiB in 2 pieces" in lines
    svg = instance.cli.directory / "region.svg"
    instance.cli.run("map", instance.name, "--svg", svg)
    assert svg.read_text().count("<rect") == 32 + 4
    assert instance.cli.run("map", instance.name, "--svg", "-").stdout == svg.read_text()
    whole = instance.cli.json("map", instance.name)
    assert [file["path"] for file in whole["files"]] == ["/a", "/b"]


def test_a_dump_of_a_daemon_that_hangs_still_has_everything_else(instance: Instance) -> None:
    make(instance.mountpoint / "ram", 2 * MIB)
    pid = instance.daemon_pid
    path = instance.cli.directory / "dump.json"
    os.kill(pid, signal.SIGSTOP)
    try:
        instance.cli.run("debug-dump", instance.name, "--output", path)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    dump = json.loads(path.read_text())
    assert "did not answer" in dump["status"]["not_collected"]
    assert dump["daemon"]["pid"] == pid and dump["daemon"]["fds"]
    assert any("(stopped)" in line for line in dump["daemon"]["status"])
    kinds = [each["record"] for entry in dump["journal_tail"] for each in entry["records"]]
    assert "Made" in kinds and "Resized" in kinds
    assert "serving" in dump["log"]


@pytest.mark.parametrize("options", [[], ["--region", "memfd"], ["--region", "hugetlb", "--reserve"]])
def test_statfs_on_a_file_says_the_page_size_as_cloud_hypervisor_asks(
    guestmemfs: Guestmemfs, options: list[str]
) -> None:
    """It opens the file of a memory zone and aligns to f_bsize of fstatfs(2) (docs/vmm-recipes.md)."""
    made = guestmemfs.mount("zone", *options, size="16M")
    make(made.mountpoint / "ram", 4 * MIB)
    fd = os.open(made.mountpoint / "ram", os.O_RDWR)
    try:
        figures = os.fstatvfs(fd)
    finally:
        os.close(fd)
    assert (figures.f_bsize, figures.f_frsize, figures.f_blocks) == (2 * MIB, 2 * MIB, 8)
