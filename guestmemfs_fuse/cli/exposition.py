"""What `status` knows, as Prometheus metrics in the text format.

Pure: statuses in, text out. Names, units and labels are documented in docs/operations.md, and a test holds
them to it. Called by `metrics`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(slots=True)
class Metric:
    """One family of samples."""

    name: str
    kind: Literal["gauge", "counter"]
    text: str
    samples: list[tuple[dict[str, str], float]] = field(default_factory=list)

    def add(self, value: Any, **labels: str) -> None:
        """One sample; what was not measured (None) is left out."""
        if value is not None:
            self.samples.append((labels, float(value)))


@dataclass(frozen=True, slots=True)
class Seen:
    """One instance: its status, or None when nobody answered for it."""

    name: str
    condition: str
    status: Mapping[str, Any] | None


def exposition(seen: Iterable[Seen]) -> str:
    """All metrics of all instances."""
    families = {each.name: each for each in _families()}
    for each in seen:
        families["guestmemfs_up"].add(each.condition in ("serving", "frozen"), instance=each.name)
        families["guestmemfs_condition"].add(1, instance=each.name, condition=each.condition)
        if each.status is not None:
            _instance(families, each.name, each.status)
    return "".join(_rendered(each) for each in families.values())


def _families() -> list[Metric]:
    return [
        Metric("guestmemfs_up", "gauge", "Whether a daemon serves the instance."),
        Metric("guestmemfs_condition", "gauge", "1 for the condition `list` shows."),
        Metric("guestmemfs_generation", "gauge", "How many daemons have served the instance."),
        Metric("guestmemfs_region_size_bytes", "gauge", "Size of the region."),
        Metric("guestmemfs_region_used_bytes", "gauge", "Bytes of the region that belong to files."),
        Metric("guestmemfs_region_free_bytes", "gauge", "Bytes of the region that are free."),
        Metric("guestmemfs_huge_bytes", "gauge", "Bytes of files in huge pages, as the kernel reports."),
        Metric("guestmemfs_files", "gauge", "Regular files, removed ones in use included."),
        Metric("guestmemfs_mapped_files", "gauge", "Files that some process maps."),
        Metric("guestmemfs_pinned_files", "gauge", "Files that are pinned."),
        Metric("guestmemfs_requests_total", "counter", "Requests from the kernel, by this daemon."),
        Metric("guestmemfs_request_seconds_total", "counter", "Time until their replies, summed up."),
        Metric("guestmemfs_requests_in_flight", "gauge", "Requests without a reply yet."),
        Metric("guestmemfs_oldest_request_seconds", "gauge", "Age of the oldest of them."),
        Metric("guestmemfs_data_calls_total", "counter", "read(2) and write(2) calls, all refused."),
        Metric("guestmemfs_commits_total", "counter", "Changes of metadata, by this daemon."),
        Metric("guestmemfs_orphans", "gauge", "Removed files that somebody still uses."),
    ]


def _instance(families: Mapping[str, Metric], name: str, status: Mapping[str, Any]) -> None:
    def put(metric: str, value: Any, **labels: str) -> None:
        families[f"guestmemfs_{metric}"].add(value, instance=name, **labels)

    region, files = status["region"], status["files"]
    put("generation", status["generation"])
    for figure in ("size_bytes", "used_bytes", "free_bytes"):
        families[f"guestmemfs_region_{figure}"].add(region[figure], instance=name, kind=region["kind"])
    put("huge_bytes", status["huge"]["bytes"])
    put("files", len(files))
    put("mapped_files", sum(bool(file["mapped_by"]) for file in files))
    put("pinned_files", sum(bool(file["pinned"]) for file in files))
    counters = status["counters"]
    put("commits_total", counters.get("committed"))
    put("orphans", counters.get("orphans"))
    if relay := counters.get("relay"):
        _channel(put, relay)


def _channel(put: Any, relay: Mapping[str, Any]) -> None:
    for operation, count in relay["requests"].items():
        put("requests_total", count, operation=operation)
    for operation, spent_ns in relay["latency_ns"].items():
        put("request_seconds_total", spent_ns / 1e9, operation=operation)
    put("requests_in_flight", relay["in_flight"])
    put("oldest_request_seconds", relay["oldest_in_flight_ns"] / 1e9)
    put("data_calls_total", relay["data_reads"] + relay["data_writes"])


def _rendered(metric: Metric) -> str:
    lines = [f"# HELP {metric.name} {metric.text}", f"# TYPE {metric.name} {metric.kind}"]
    for labels, value in metric.samples:
        inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        shown = int(value) if value.is_integer() else repr(value)
        lines.append(f"{metric.name}{{{inside}}} {shown}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
