"""What `status` knows, as Prometheus metrics: statuses in, the library's metric families out.

Pure. Names, units and labels are in docs/operations.md, and a test holds them to it. Imports
prometheus_client, so that only `metrics` imports this.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

INSTANCE = "instance"
_TOTAL = "_total"

GAUGES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "guestmemfs_up": ("Whether a daemon serves the instance.", ()),
    "guestmemfs_condition": ("1 for the condition `list` shows.", ("condition",)),
    "guestmemfs_holder_up": ("Whether a holder, or systemd, keeps what the next daemon needs.", ()),
    "guestmemfs_generation": ("How many daemons have served the instance.", ()),
    "guestmemfs_region_size_bytes": ("Size of the region.", ("kind",)),
    "guestmemfs_region_used_bytes": ("Bytes of the region that belong to files.", ("kind",)),
    "guestmemfs_region_free_bytes": ("Bytes of the region that are free.", ("kind",)),
    "guestmemfs_huge_bytes": ("Bytes of files in huge pages, as the kernel reports.", ()),
    "guestmemfs_files": ("Regular files, removed ones in use included.", ()),
    "guestmemfs_mapped_files": ("Files that some process maps.", ()),
    "guestmemfs_pinned_files": ("Files that are pinned.", ()),
    "guestmemfs_requests_in_flight": ("Requests without a reply yet.", ()),
    "guestmemfs_oldest_request_seconds": ("Age of the oldest of them.", ()),
    "guestmemfs_orphans": ("Removed files that somebody still uses.", ()),
}
"""Name to what it says, and its labels besides the instance."""

COUNTERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "guestmemfs_requests_total": ("Requests from the kernel, by this daemon.", ("operation",)),
    "guestmemfs_request_seconds_total": ("Time until their replies, summed up.", ("operation",)),
    "guestmemfs_data_calls_total": ("read(2) and write(2) calls, all refused.", ()),
    "guestmemfs_commits_total": ("Changes of metadata, by this daemon.", ()),
}
"""The same for what only grows, until the next daemon begins at zero."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One instance: its status, or None when nobody answered for it."""

    name: str
    condition: str
    status: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class _Sample:
    metric: str
    value: Any
    labels: tuple[str, ...] = ()


def families(seen: Iterable[Seen]) -> list[Metric]:
    """All metrics of all instances; what was not measured (None) is left out."""
    made: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
    for name, (text, labels) in GAUGES.items():
        made[name] = GaugeMetricFamily(name, text, labels=[INSTANCE, *labels])
    for name, (text, labels) in COUNTERS.items():
        made[name] = CounterMetricFamily(name.removesuffix(_TOTAL), text, labels=[INSTANCE, *labels])
    for each in seen:
        for sample in _samples(each):
            if sample.value is not None:
                made[sample.metric].add_metric([each.name, *sample.labels], float(sample.value))
    return list(made.values())


def _samples(seen: Seen) -> Iterator[_Sample]:
    yield _Sample("guestmemfs_up", seen.condition in ("serving", "frozen"))
    yield _Sample("guestmemfs_condition", 1, (seen.condition,))
    if (status := seen.status) is None:
        return
    region, files, counters = status["region"], status["files"], status["counters"]
    yield _Sample("guestmemfs_holder_up", status["holder_pid"] is not None)
    yield _Sample("guestmemfs_generation", status["generation"])
    for figure in ("size_bytes", "used_bytes", "free_bytes"):
        yield _Sample(f"guestmemfs_region_{figure}", region[figure], (region["kind"],))
    yield _Sample("guestmemfs_huge_bytes", status["huge"]["bytes"])
    yield _Sample("guestmemfs_files", len(files))
    yield _Sample("guestmemfs_mapped_files", sum(bool(file["mapped_by"]) for file in files))
    yield _Sample("guestmemfs_pinned_files", sum(bool(file["pinned"]) for file in files))
    yield _Sample("guestmemfs_commits_total", counters.get("committed"))
    yield _Sample("guestmemfs_orphans", counters.get("orphans"))
    if relay := counters.get("relay"):
        yield from _channel(relay)


def _channel(relay: Mapping[str, Any]) -> Iterator[_Sample]:
    for operation, count in relay["requests"].items():
        yield _Sample("guestmemfs_requests_total", count, (operation,))
    for operation, spent_ns in relay["latency_ns"].items():
        yield _Sample("guestmemfs_request_seconds_total", spent_ns / 1e9, (operation,))
    yield _Sample("guestmemfs_requests_in_flight", relay["in_flight"])
    yield _Sample("guestmemfs_oldest_request_seconds", relay["oldest_in_flight_ns"] / 1e9)
    yield _Sample("guestmemfs_data_calls_total", relay["data_reads"] + relay["data_writes"])
