"""How much is measured: quick (two minutes), bench (under ten), full (as long as it takes), tiny (tests).

Sizes and repetitions only; what is measured is the same. Rows of different scales can be compared where
their x is the same, since figures are per call or per GiB.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Scale:
    """See the fields; times in seconds, sizes in bytes."""

    name: str
    rounds: int
    # no further rounds of one thing are begun after so long; most need less
    part_s: float
    # touched before all, where a hypervisor may not have given this machine its memory yet
    warm_bytes: int
    # memory path and allocation: rounds of what is compared to a twentieth and finer
    memory_rounds: int
    # memory path: size of the file, and of those for random access
    memory_bytes: int
    random_bytes: tuple[int, ...]
    # control path: files of one client, of each of eight; entries to list
    control_files: int
    control_files_of_eight: int
    list_entries: int
    # durability and life cycle: instances with that many files
    file_counts: tuple[int, ...]
    changes: int
    pound_s: float
    soak_changes: int
    idle_s: float
    life_rounds: int
    # allocation: sizes, and up to which they are also touched
    allocation_bytes: tuple[int, ...]
    touched_up_to_bytes: int
    allocation_watch_s: float
    # guest: rounds of boots, guest sizes for blackouts, up to which the RAM is also written out
    boots: int
    boot_bytes: int
    blackout_bytes: tuple[int, ...]
    written_out_up_to_bytes: int
    blackouts: int


BENCH = Scale(
    name="bench",
    rounds=9,
    part_s=30.0,
    warm_bytes=10 * GIB,
    memory_rounds=30,
    memory_bytes=512 * MIB,
    random_bytes=(1 * GIB, 4 * GIB),
    control_files=800,
    control_files_of_eight=100,
    list_entries=10_000,
    file_counts=(10, 1_000, 10_000, 100_000),
    changes=200,
    pound_s=15.0,
    soak_changes=10_000,
    idle_s=10.0,
    life_rounds=5,
    allocation_bytes=(1 * GIB, 4 * GIB, 16 * GIB),
    touched_up_to_bytes=1 * GIB,
    allocation_watch_s=3.0,
    boots=5,
    boot_bytes=512 * MIB,
    blackout_bytes=(256 * MIB, 1 * GIB, 4 * GIB, 8 * GIB),
    written_out_up_to_bytes=1 * GIB,
    blackouts=3,
)
# What short runs leave out: guests, and folding the journal.
_SHORT = replace(
    BENCH,
    pound_s=0.0,
    boots=0,
    boot_bytes=0,
    blackout_bytes=(),
    written_out_up_to_bytes=0,
    blackouts=0,
)
QUICK = replace(
    _SHORT,
    name="quick",
    rounds=3,
    part_s=4.0,
    warm_bytes=2 * GIB,
    memory_rounds=3,
    random_bytes=(1 * GIB,),
    control_files=500,
    control_files_of_eight=64,
    file_counts=(10, 1_000),
    soak_changes=1_000,
    idle_s=3.0,
    life_rounds=3,
    allocation_bytes=(1 * GIB,),
    allocation_watch_s=1.0,
)
FULL = replace(
    BENCH,
    name="full",
    rounds=21,
    part_s=600.0,
    warm_bytes=18 * GIB,
    memory_rounds=61,
    memory_bytes=1 * GIB,
    random_bytes=(1 * GIB, 2 * GIB, 4 * GIB, 8 * GIB),
    control_files=2_000,
    control_files_of_eight=250,
    file_counts=(10, 100, 1_000, 10_000, 100_000),
    changes=500,
    pound_s=60.0,
    soak_changes=100_000,
    idle_s=60.0,
    life_rounds=15,
    touched_up_to_bytes=16 * GIB,
    allocation_watch_s=10.0,
    boots=7,
    blackout_bytes=(256 * MIB, 512 * MIB, 1 * GIB, 2 * GIB, 4 * GIB, 8 * GIB),
    written_out_up_to_bytes=8 * GIB,
    blackouts=5,
)
TINY = replace(
    _SHORT,
    name="tiny",
    rounds=1,
    part_s=5.0,
    warm_bytes=0,
    memory_rounds=1,
    memory_bytes=4 * MIB,
    random_bytes=(8 * MIB,),
    control_files=8,
    control_files_of_eight=8,
    list_entries=20,
    file_counts=(2, 10),
    changes=5,
    pound_s=0.1,
    soak_changes=5,
    idle_s=0.1,
    life_rounds=1,
    allocation_bytes=(16 * MIB,),
    allocation_watch_s=0.1,
)
SCALES = {scale.name: scale for scale in (QUICK, BENCH, FULL, TINY)}
