"""Two looks at an instance, and what lies between them, as lines. Pure. Called by `top`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from guestmemfs_fuse.cli.output import file_label
from guestmemfs_fuse.cli.sizes import size_text

_BAR = 40
_FILES = 20


@dataclass(frozen=True, slots=True)
class Rate:
    """One kind of request between two looks; mean_us: None when none was answered."""

    operation: str
    per_second: float
    mean_us: float | None


def rates(before: Mapping[str, Any], now: Mapping[str, Any], elapsed_s: float) -> list[Rate]:
    """Busiest first. before and now are statuses; another daemon's counters are no base to subtract."""
    new = now["counters"]["relay"]
    same = before["daemon_pid"] == now["daemon_pid"] and before["generation"] == now["generation"]
    old = before["counters"]["relay"] if same else {"requests": {}, "replies": {}, "latency_ns": {}}
    found = []
    for operation, requests in new["requests"].items():
        came = requests - old["requests"].get(operation, 0)
        answered = new["replies"].get(operation, 0) - old["replies"].get(operation, 0)
        spent_ns = new["latency_ns"].get(operation, 0) - old["latency_ns"].get(operation, 0)
        if came > 0:
            mean_us = spent_ns / answered / 1e3 if answered > 0 else None
            found.append(Rate(operation, came / elapsed_s, mean_us))
    return sorted(found, key=lambda rate: (-rate.per_second, rate.operation))


def view(before: Mapping[str, Any], now: Mapping[str, Any], elapsed_s: float) -> list[str]:
    """The whole screen."""
    region, huge, relay = now["region"], now["huge"], now["counters"]["relay"]
    lines = [
        f"{now['name']} at {now['mountpoint']}: {now['state']}, generation {now['generation']}, "
        f"daemon pid {now['daemon_pid']}",
        f"region  {_bar(region['used_bytes'], region['size_bytes'])} "
        f"{size_text(region['used_bytes'])} of {size_text(region['size_bytes'])} {region['kind']}",
        f"huge    {_bar(huge['bytes'] or 0, region['used_bytes'])} {huge['fraction'] or 0:.1%} of it",
        f"channel {relay['in_flight']} requests in flight, the oldest for "
        f"{relay['oldest_in_flight_ns'] / 1e6:.1f} ms",
        "",
        f"{'REQUEST':<14}{'PER SECOND':>12}{'MEAN':>12}",
    ]
    for rate in rates(before, now, elapsed_s):
        mean = f"{rate.mean_us:.0f} us" if rate.mean_us is not None else "-"
        lines.append(f"{rate.operation:<14}{rate.per_second:>12.1f}{mean:>12}")
    return [*lines, "", *_files(now["files"])]


def _files(files: list[Mapping[str, Any]]) -> list[str]:
    lines = [f"{'SIZE':>10}{'HUGE':>6}  {'FILE':<32}MAPPED BY"]
    # The same way up every time, or nobody can read it.
    ordered = sorted(files, key=lambda file: (not file["mapped_by"], -file["size_bytes"], file["path"]))
    for file in ordered[:_FILES]:
        users = ", ".join(f"{user['comm']}[{user['pid']}]" for user in file["mapped_by"]) or "-"
        huge = f"{file['huge_fraction']:.0%}" if file["huge_fraction"] is not None else "?"
        lines.append(f"{size_text(file['size_bytes']):>10}{huge:>6}  {file_label(file):<32}{users}")
    if len(ordered) > _FILES:
        lines.append(f"and {len(ordered) - _FILES} more")
    return lines


def _bar(part: int, whole: int) -> str:
    filled = round(_BAR * part / whole) if whole else 0
    return "[" + "#" * min(filled, _BAR) + "." * (_BAR - min(filled, _BAR)) + "]"
