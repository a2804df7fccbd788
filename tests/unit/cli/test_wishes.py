"""What `mount` was asked for against what is there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from guestmemfs_fuse.cli.wishes import Host, Replaced, Wishes, made_anew, new_config, require_same
from guestmemfs_fuse.core.errors import OutOfMemoryError, UsageError
from guestmemfs_fuse.metadata.instance import InstanceConfig
from tests.unit.cli.fakes import MIB, a_config

GIB = 1 << 30
HOST = Host(boot_id="boot", now_ns=7, memory_bytes=8 * GIB, node_bytes={0: 6 * GIB, 2: 2 * GIB})


def _new(**wishes: object) -> InstanceConfig:
    return new_config(Wishes("/mnt/g", **wishes), "g", "/mnt/g", None, HOST)  # type: ignore[arg-type]


def test_a_new_instance_is_a_tmpfs_with_2m_blocks_rounded_up() -> None:
    config = _new(size_bytes=4 * MIB + 1)
    assert (config.kind, config.block_bytes, config.size_bytes) == ("tmpfs", 2 * MIB, 6 * MIB)
    assert (config.name, config.mountpoint, config.boot_id, config.created_ns) == ("g", "/mnt/g", "boot", 7)


def test_every_new_instance_has_a_uuid_of_its_own() -> None:
    assert _new(size_bytes=MIB).uuid_hex != _new(size_bytes=MIB).uuid_hex


def test_a_new_instance_needs_a_size() -> None:
    with pytest.raises(UsageError, match="needs --size"):
        _new()


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"page_bytes": GIB}, "no 1G pages"),
        ({"page_bytes": GIB, "kind": "memfd"}, "no 1G pages"),
        ({"kind": "dax"}, "needs --dax-dir"),
        ({"dax_dir": "/pmem"}, "does not go with --region tmpfs"),
        ({"kind": "dax", "dax_dir": "/pmem", "numa_node": 0}, "--numa-node does not go"),
        ({"numa_node": 1}, "no NUMA node 1"),
    ],
)
def test_options_that_do_not_go_together_are_refused(wishes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _new(size_bytes=GIB, **wishes)


def test_hugetlb_may_have_1g_blocks() -> None:
    config = _new(size_bytes=GIB + 1, kind="hugetlb", page_bytes=GIB)
    assert (config.block_bytes, config.size_bytes) == (GIB, 2 * GIB)


@pytest.mark.parametrize("kind", ["tmpfs", "memfd"])
def test_more_than_the_host_has_is_refused(kind: str) -> None:
    with pytest.raises(OutOfMemoryError, match=r"8\.002 GiB does not fit into the 8 GiB of this host"):
        _new(size_bytes=8 * GIB + 1, kind=kind)


def test_more_than_the_node_has_is_refused() -> None:
    assert _new(size_bytes=2 * GIB, numa_node=2).numa_node == 2
    with pytest.raises(OutOfMemoryError, match="NUMA node 2"):
        _new(size_bytes=2 * GIB + 1, numa_node=2)


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"size_bytes": 66 * MIB}, "exists with --size 64M, not 66M"),
        ({"size_bytes": 4096}, "exists with --size 64M, not 4K"),
        ({"kind": "memfd"}, "exists with --region tmpfs, not memfd"),
        ({"page_bytes": GIB}, "exists with --page-size 2M, not 1G"),
        ({"numa_node": 0}, "exists without --numa-node, not 0"),
        ({"reserve": True}, "--reserve does not go with --region tmpfs"),
    ],
)
def test_an_option_that_contradicts_what_is_there_names_it(wishes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        require_same(a_config(), Wishes("/mnt/guests", **wishes), None)  # type: ignore[arg-type]


def test_options_that_say_what_is_there_are_fine() -> None:
    wishes = Wishes("/mnt/guests", size_bytes=64 * MIB - 1, kind="tmpfs", page_bytes=2 * MIB)
    require_same(a_config(), wishes, None)
    require_same(a_config(), Wishes("/mnt/guests"), None)


def test_an_instance_made_anew_is_as_it_was_where_nothing_else_is_said() -> None:
    stored = a_config(kind="hugetlb", block_bytes=GIB, size_bytes=4 * GIB, numa_node=0)
    config = new_config(made_anew(stored, Wishes("/mnt/guests")), "guests", "/mnt/guests", None, HOST)
    lost = {"replaces": {"kind": "hugetlb", "size_bytes": 4 * GIB}}
    assert config == replace(stored, uuid_hex=config.uuid_hex, boot_id="boot", created_ns=7, options=lost)
    assert config.uuid_hex != stored.uuid_hex


def test_an_instance_made_anew_as_another_kind_takes_over_the_size_only() -> None:
    stored = a_config(kind="hugetlb", block_bytes=GIB, size_bytes=4 * GIB, numa_node=0)
    again = made_anew(stored, Wishes("/mnt/guests", kind="tmpfs"))
    lost = Replaced("hugetlb", 4 * GIB)
    assert again == Wishes("/mnt/guests", kind="tmpfs", size_bytes=4 * GIB, replaces=lost)
