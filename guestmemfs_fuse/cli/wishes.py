"""What `mount` was asked for, held against what is there: the configuration that comes out.

Pure: facts about the host are arguments. An instance that exists is never changed by options; one whose
memory is gone may be made anew. Called by cli/mounting.py.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace

from guestmemfs_fuse.cli.sizes import exact_size, size_text
from guestmemfs_fuse.core.errors import OutOfMemoryError, UsageError
from guestmemfs_fuse.core.types import round_up
from guestmemfs_fuse.metadata.instance_config import (
    DEFAULT_KIND,
    REPLACES,
    RESERVE,
    HugeWish,
    InstanceConfig,
    RegionKind,
)

HUGE_PAGE_BYTES = 2 << 20
GIGANTIC_PAGE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Replaced:
    """A region whose memory is gone."""

    kind: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Wishes:
    """The options of `mount`; None is "not said". Paths as the user wrote them.

    replaces is no option: what the new instance, if it is one, takes the place of.
    """

    mountpoint: str
    size_bytes: int | None = None
    kind: RegionKind | None = None
    page_bytes: int | None = None
    dax_dir: str | None = None
    numa_node: int | None = None
    name: str | None = None
    state_dir: str | None = None
    foreground: bool = False
    reserve: bool = False
    huge: HugeWish | None = None
    replaces: Replaced | None = None


@dataclass(frozen=True, slots=True)
class Host:
    """The facts that matter. node_bytes: memory of each NUMA node; all in bytes."""

    boot_id: str
    now_ns: int
    memory_bytes: int
    node_bytes: dict[int, int]


def new_config(wishes: Wishes, name: str, mountpoint: str, dax_dir: str | None, host: Host) -> InstanceConfig:
    """The configuration of an instance that is made now, its size rounded up to whole blocks.

    mountpoint, dax_dir: canonical. Raises UsageError when options are missing or do not go together,
    OutOfMemoryError when the host cannot have that much.
    """
    kind = wishes.kind or DEFAULT_KIND
    if wishes.size_bytes is None:
        raise UsageError(f"instance {name} is new and needs --size", hint="for example --size 4G")
    _check_combination(kind, wishes)
    block_bytes = wishes.page_bytes or HUGE_PAGE_BYTES
    size_bytes = round_up(wishes.size_bytes, block_bytes)
    _check_memory(kind, size_bytes, wishes.numa_node, host)
    return InstanceConfig(
        name=name,
        uuid_hex=uuid.uuid4().hex,
        mountpoint=mountpoint,
        kind=kind,
        size_bytes=size_bytes,
        block_bytes=block_bytes,
        boot_id=host.boot_id,
        created_ns=host.now_ns,
        numa_node=wishes.numa_node,
        huge=wishes.huge or "prefer",
        dax_dir=dax_dir,
        options=_options(wishes),
    )


def _options(wishes: Wishes) -> dict[str, object]:
    options: dict[str, object] = {}
    if wishes.reserve:
        options[RESERVE] = {"pages": 0, "floor": None}
    if wishes.replaces is not None:
        options[REPLACES] = asdict(wishes.replaces)
    return options


def hides(mountpoint: str | None, state_dir: str | None) -> bool:
    """Whether a mount would cover the state directory; both absolute."""
    return bool(mountpoint and state_dir) and f"{state_dir}/".startswith(f"{mountpoint}/")


def made_anew(stored: InstanceConfig, wishes: Wishes) -> Wishes:
    """The wishes for an instance whose memory is gone: what is not said is as it was.

    Another kind is another instance: then only what was said counts.
    """
    wishes = replace(wishes, replaces=Replaced(stored.kind, stored.size_bytes))
    if wishes.kind not in (None, stored.kind):
        return replace(wishes, size_bytes=wishes.size_bytes or stored.size_bytes)
    has_huge = stored.kind in ("tmpfs", "memfd")
    return replace(
        wishes,
        size_bytes=wishes.size_bytes or stored.size_bytes,
        kind=stored.kind,
        page_bytes=wishes.page_bytes or stored.block_bytes,
        dax_dir=wishes.dax_dir or stored.dax_dir,
        numa_node=stored.numa_node if wishes.numa_node is None else wishes.numa_node,
        reserve=wishes.reserve or RESERVE in stored.options,
        huge=wishes.huge or (stored.huge if has_huge else None),
    )


def require_same(stored: InstanceConfig, wishes: Wishes, dax_dir: str | None) -> None:
    """Raises UsageError when an option contradicts the instance that is there; says what is there."""
    size_bytes = wishes.size_bytes
    if size_bytes and round_up(size_bytes, stored.block_bytes) == stored.size_bytes:
        size_bytes = None
    compared = (
        ("--region", wishes.kind, stored.kind),
        ("--page-size", wishes.page_bytes, stored.block_bytes),
        ("--size", size_bytes, stored.size_bytes),
        ("--dax-dir", dax_dir, stored.dax_dir),
        ("--numa-node", wishes.numa_node, stored.numa_node),
        ("--huge", wishes.huge, stored.huge),
    )
    _check_reserve(stored.kind, wishes)
    for option, wanted, there in compared:
        if wanted is not None and wanted != there:
            has = f"without {option}" if there is None else f"with {option} {_shown(there)}"
            raise UsageError(
                f"instance {stored.name} exists {has}, not {_shown(wanted)}",
                hint=f"leave {option} out to use what is there, or give another --name",
            )


def _check_combination(kind: RegionKind, wishes: Wishes) -> None:
    if wishes.page_bytes == GIGANTIC_PAGE_BYTES and kind != "hugetlb":
        raise UsageError(f"a {kind} region has no 1G pages", hint="use --region hugetlb, or --page-size 2M")
    _check_reserve(kind, wishes)
    if wishes.huge is not None and kind not in ("tmpfs", "memfd"):
        raise UsageError(
            f"--huge does not go with --region {kind}",
            hint="hugetlb has nothing but huge pages, dax has those its filesystem aligns",
        )
    if kind == "dax" and wishes.dax_dir is None:
        raise UsageError(
            "--region dax needs --dax-dir, a directory on an fsdax filesystem",
            hint="`guestmemfs doctor` shows how to make one",
        )
    if kind != "dax" and wishes.dax_dir is not None:
        raise UsageError(f"--dax-dir does not go with --region {kind}", hint="use --region dax")
    if kind == "dax" and wishes.numa_node is not None:
        raise UsageError(
            "--numa-node does not go with --region dax", hint="its memory is where the filesystem is"
        )


def _check_reserve(kind: RegionKind, wishes: Wishes) -> None:
    if wishes.reserve and kind != "hugetlb":
        raise UsageError(
            f"--reserve does not go with --region {kind}", hint="only hugetlb pages come from a pool"
        )


def _check_memory(kind: RegionKind, size_bytes: int, numa_node: int | None, host: Host) -> None:
    if numa_node is not None and numa_node not in host.node_bytes:
        raise UsageError(
            f"there is no NUMA node {numa_node}", hint=f"--numa-node is one of {_listed(host.node_bytes)}"
        )
    if kind not in ("tmpfs", "memfd"):
        return  # what they can have is not the host's free memory: the region itself will say
    limit_bytes = host.memory_bytes if numa_node is None else host.node_bytes[numa_node]
    if size_bytes > limit_bytes:
        where = "this host" if numa_node is None else f"NUMA node {numa_node}"
        raise OutOfMemoryError(
            f"a region of {size_text(size_bytes)} does not fit into the {size_text(limit_bytes)} of {where}",
            hint="choose a smaller --size",
        )


def _shown(value: object) -> str:
    """A value as it can be written on the command line."""
    return exact_size(value) if isinstance(value, int) and value > 1024 else str(value)


def _listed(nodes: Collection[int]) -> str:
    return ", ".join(map(str, sorted(nodes)))
