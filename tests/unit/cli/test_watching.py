"""top, metrics and debug-dump: figures that add up, names that are documented, dumps that survive damage."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from guestmemfs_fuse.cli import dumping
from guestmemfs_fuse.cli.exposition import COUNTERS, GAUGES, Seen, families
from guestmemfs_fuse.cli.top_view import rates, view
from guestmemfs_fuse.metadata.instance import Instance
from tests.unit.cli.fakes import SERVING, STOPPED, FakeDaemon

DOCS = Path(__file__).resolve().parents[3] / "docs"


def status(pid: int = 41, **relay: Any) -> dict[str, Any]:
    channel = {
        "requests": {"lookup": 10, "getattr": 2},
        "replies": {"lookup": 10, "getattr": 2},
        "latency_ns": {"lookup": 1_000_000, "getattr": 40_000},
        "in_flight": 1,
        "oldest_in_flight_ns": 2_500_000,
        "data_reads": 3,
        "data_writes": 1,
        **relay,
    }
    a_file = {"path": "/vm", "ino": 2, "size_bytes": 4 << 20, "huge_fraction": 1.0, "pinned": True}
    return {
        "name": "guests",
        "mountpoint": "/mnt/guests",
        "state": "serving",
        "daemon_pid": pid,
        "holder_pid": 40,
        "generation": 3,
        "region": {"kind": "tmpfs", "size_bytes": 64 << 20, "used_bytes": 16 << 20, "free_bytes": 48 << 20},
        "huge": {"bytes": 16 << 20, "fraction": 1.0},
        "files": [{**a_file, "mapped_by": [{"pid": 9, "comm": "qemu", "bytes": 1}]}],
        "counters": {"committed": 7, "orphans": 0, "relay": channel},
    }


def test_rates_are_what_came_between_two_looks() -> None:
    later = status(
        requests={"lookup": 30, "getattr": 2, "open": 1},
        replies={"lookup": 30, "getattr": 2},
        latency_ns={"lookup": 5_000_000, "getattr": 40_000},
    )
    lookup, opened = rates(status(), later, 2.0)
    assert (lookup.operation, lookup.per_second, lookup.mean_us) == ("lookup", 10.0, 200.0)
    assert (opened.operation, opened.per_second, opened.mean_us) == ("open", 0.5, None)


def test_another_daemons_counters_begin_at_zero() -> None:
    assert {rate.operation: rate.per_second for rate in rates(status(41), status(42), 1.0)} == {
        "lookup": 10.0,
        "getattr": 2.0,
    }


def test_the_view_says_use_requests_and_who_maps_what() -> None:
    text = "\n".join(view(status(), status(43), 1.0))
    assert "[##########..............................] 16 MiB of 64 MiB tmpfs" in text
    assert re.search(r"lookup +10\.0 +100 us", text)
    assert re.search(r"4 MiB +100% +/vm +qemu\[9\]", text)


def test_top_ends_after_so_many_looks(
    run: Callable[..., Any], make_instance: Callable[..., Instance], daemon: FakeDaemon
) -> None:
    make_instance()
    daemon.answers["status"] = status()
    done = run("top", "guests", "--interval", "0.1", "--count", "2")
    assert done.exit_code == 0 and done.stdout.count("guests at /mnt/guests") == 2


# -- metrics -----------------------------------------------------------------------------------------


def text_of(seen: list[Seen]) -> str:
    """As a scrape gets it."""

    class Given(Collector):
        def collect(self) -> Any:
            return families(seen)

    registry = CollectorRegistry()
    registry.register(Given())
    return generate_latest(registry).decode()


def samples(text: str) -> dict[str, float]:
    found = re.findall(r"^(\w+(?:\{.*\})?) (\S+)$", text, re.MULTILINE)
    assert len(found) == sum(not line.startswith("#") for line in text.splitlines())
    return {name: float(value) for name, value in found}


def test_figures_are_those_of_status_in_the_units_of_their_names() -> None:
    found = samples(text_of([Seen("guests", "serving", status())]))
    assert found['guestmemfs_up{instance="guests"}'] == 1
    assert found['guestmemfs_region_used_bytes{instance="guests",kind="tmpfs"}'] == 16 << 20
    assert found['guestmemfs_request_seconds_total{instance="guests",operation="lookup"}'] == 0.001
    assert found['guestmemfs_oldest_request_seconds{instance="guests"}'] == 0.0025
    assert found['guestmemfs_data_calls_total{instance="guests"}'] == 4
    assert found['guestmemfs_mapped_files{instance="guests"}'] == 1


def test_an_instance_without_a_daemon_is_down_and_nothing_else_is_claimed() -> None:
    assert samples(text_of([Seen("a", "stopped", None)])) == {
        'guestmemfs_up{instance="a"}': 0,
        'guestmemfs_condition{condition="stopped",instance="a"}': 1,
    }


def test_every_family_is_announced_once_even_without_samples() -> None:
    text = text_of([])
    for kind, names in (("gauge", GAUGES), ("counter", COUNTERS)):
        for name in names:
            assert text.count(f"# TYPE {name} {kind}\n") == 1
            assert f"# HELP {name} " in text
            assert name.endswith("_total") is (kind == "counter")


def test_every_metric_is_documented_and_no_other() -> None:
    """With its unit, which is the last word of the name where it is one of measure, and its labels."""
    rows = re.findall(
        r"^\| `(guestmemfs_\w+)` \| (.+?) \| (.*?) ?\|", (DOCS / "operations.md").read_text(), re.MULTILINE
    )
    labels = {name: tuple(re.findall(r"`(\w+)`", text)) for name, _unit, text in rows}
    assert labels == {name: more for name, (_text, more) in [*GAUGES.items(), *COUNTERS.items()]}
    for name, unit, _labels in rows:
        last = name.removesuffix("_total").rpartition("_")[2]
        assert (last if last in ("bytes", "seconds") else unit) == unit, name


def test_label_values_are_escaped() -> None:
    assert 'instance="a\\"b\\\\c\\nd"' in text_of([Seen('a"b\\c\nd', "stopped", None)])


def test_a_textfile_is_replaced_as_a_whole(
    run: Callable[..., Any],
    make_instance: Callable[..., Instance],
    daemon: FakeDaemon,
    see: Any,
    tmp_path: Path,
) -> None:
    make_instance()
    see(SERVING)
    daemon.serves()
    daemon.answers["status"] = status()
    path = tmp_path / "guestmemfs.prom"
    path.write_text("old")
    assert run("metrics", "--textfile", str(path)).exit_code == 0
    assert path.read_text() == run("metrics").stdout
    assert (
        samples(path.read_text())['guestmemfs_region_used_bytes{instance="guests",kind="tmpfs"}'] == 16 << 20
    )
    assert path.stat().st_mode & 0o777 == 0o644
    assert [each.name for each in tmp_path.glob("*.prom*")] == ["guestmemfs.prom"]


@pytest.mark.parametrize(
    "options", [["--every", "1"], ["--metrics-listen", "9464", "--textfile", "x"], ["--listen", "0"]]
)
def test_options_of_metrics_that_do_not_go_together(run: Callable[..., Any], options: list[str]) -> None:
    assert run("metrics", *options).exit_code == 2


def test_a_metrics_file_that_cannot_be_written_is_named(run: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "guestmemfs.prom"
    done = run("metrics", "--textfile", str(path))
    assert (done.exit_code, done.stderr) == (
        1,
        f"error: {path} cannot be written: No such file or directory\n",
    )


def test_a_port_that_is_taken_is_named(run: Callable[..., Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("metrics", "--metrics-listen", str(port))
    assert (done.exit_code, done.stderr) == (
        1,
        f"error: 127.0.0.1:{port} cannot be listened on: Address already in use\n",
    )


# -- debug-dump --------------------------------------------------------------------------------------


def test_a_dump_says_of_every_part_that_failed_why(
    make_instance: Callable[..., Instance], daemon: FakeDaemon, see: Any
) -> None:
    instance = make_instance()
    see(STOPPED)
    dump = dumping.collect(instance)
    json.dumps(dump)
    assert dump["configuration"]["name"] == "guests"
    assert dump["sight"]["condition"] == "stopped"
    assert "NotRunningError" in dump["status"]["not_collected"]
    assert "FileNotFoundError" in dump["journal_tail"]["not_collected"]
    assert [row["name"] for row in dump["state_directory"]] == ["instance.json"]


def test_a_dump_goes_to_a_file_that_only_root_reads(
    run: Callable[..., Any], make_instance: Callable[..., Instance], see: Any, tmp_path: Path
) -> None:
    make_instance()
    see(STOPPED)
    (tmp_path / "dump").touch(0o644)  # one from last time, or anything
    done = run("debug-dump", "guests", "--output", str(tmp_path / "dump"))
    assert done.exit_code == 0
    assert (tmp_path / "dump").stat().st_mode & 0o777 == 0o600
    assert json.loads((tmp_path / "dump").read_text())["versions"]["guestmemfs-fuse"]
