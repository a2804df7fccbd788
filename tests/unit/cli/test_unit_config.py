"""A unit's configuration file: every mistake with its line, and what check-config makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from guestmemfs_fuse.cli import unit_config
from guestmemfs_fuse.cli.unit_config import Mistake, parse
from guestmemfs_fuse.core.errors import UsageError

GOOD = b'mountpoint = "/srv/guests"\nsize = "64M"\n'


def test_keys_are_the_options_of_mount() -> None:
    wishes, mistakes = parse(
        GOOD
        + b'region = "hugetlb"\npage-size = "1G"\nnuma-node = 1\nstate-dir = "/var/gm"\nreserve = true\n',
        "guests",
    )
    assert mistakes == [] and wishes is not None
    assert (wishes.name, wishes.mountpoint, wishes.size_bytes) == ("guests", "/srv/guests", 64 << 20)
    assert (wishes.kind, wishes.page_bytes, wishes.numa_node) == ("hugetlb", 1 << 30, 1)
    assert (wishes.state_dir, wishes.foreground, wishes.reserve) == ("/var/gm", True, True)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (b'mountpoint = "/a"\nsize = 4G\n', 2, ""),
        (b'mountpoint = "/a"\nsize = "4G"\n"regoin" = "tmpfs"\n', 3, "did you mean region?"),
        (b'mountpoint = "/a"\nsize = "4G"\npage_size = "2M"\n', 3, "did you mean page-size?"),
        (b'mountpoint = "/a"\nsize = "four"\n', 2, "no size"),
        (b'mountpoint = "/a"\nsize = 0\n', 2, "out of range"),
        (b'size = "4G"\nmountpoint = "guests"\n', 2, "absolute path"),
        (b'\n\nmountpoint = "/a"\nsize = "4G"\nregion = "ramfs"\n', 5, "tmpfs, memfd, hugetlb, dax"),
        (b'mountpoint = "/a"\nsize = "4G"\nnuma-node = true\n', 3, "NUMA node"),
        (b'mountpoint = "/a"\nsize = "4G"\n\n[pool]\nx = 1\n', 4, "unknown key 'pool'"),
        (b'mountpoint = "/a"\nsize = "4G"\n# \xff\n', 3, "UTF-8"),
        (b'mountpoint = "/a"\nsize = "4G"\nreserve = 1\n', 3, "true or false"),
        (b'mountpoint = "/a"\nsize = "4G"\nhuge = "yes"\n', 3, "prefer, require"),
        (b'mountpoint = "/a"\n', 0, "size is missing"),
        (b'size = "4G"\nmountpoint = "//"\n', 2, "a directory of its own"),
        (b'size = "4G"\nmountpoint = "/srv/\\u0000"\n', 2, "zero byte"),
        (b'mountpoint = "/a/"\nsize = "4G"\nstate-dir = "/a/b"\n', 3, "hidden by the mount"),
        (b'mountpoint = "/a"\nsize = "4G', 2, ""),
    ],
)
def test_a_mistake_is_named_with_its_line(text: bytes, line: int, says: str) -> None:
    wishes, mistakes = parse(text, "guests")
    assert wishes is None
    assert [mistake.line for mistake in mistakes] == [line]
    assert says in mistakes[0].text


def test_all_mistakes_are_found_at_once() -> None:
    _wishes, mistakes = parse(b'mountpoint = 3\nsize = "x"\nspeed = "fast"\n', "guests")
    assert [mistake.line for mistake in mistakes] == [1, 2, 3]


def test_check_config_prints_them_as_compilers_do(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "guests.toml"
    path.write_bytes(b'mountpoint = "guests"\nsize = "x"\n')
    done = run("check-config", str(path))
    assert done.exit_code == 2
    first, second = done.stderr.splitlines()
    assert first.startswith(f"{path}:1: mountpoint: ") and second.startswith(f"{path}:2: size: ")


def test_check_config_says_what_would_be_served(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "guests.toml"
    path.write_bytes(GOOD)
    done = run("check-config", str(path))
    assert (done.exit_code, done.stdout) == (
        0,
        f"{path}: instance guests, a 64 MiB tmpfs region at /srv/guests\n",
    )


def test_check_config_finds_what_this_host_cannot_give(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "guests.toml"
    path.write_bytes(b'mountpoint = "/a"\nsize = "4T"\n')
    done = run("check-config", str(path))
    assert done.exit_code == 7 and f"{path}:2: a region of 4 TiB does not fit" in done.stderr
    path.write_bytes(b'mountpoint = "/a"\nsize = "4M"\nregion = "dax"\n')
    done = run("check-config", str(path))
    assert done.exit_code == 2 and f"{path}:3: region dax needs dax-dir" in done.stderr
    path.write_bytes(b'mountpoint = "/a"\nsize = "4M"\n\nnuma-node = 999\n')
    assert f"{path}:4: there is no NUMA node 999" in run("check-config", str(path)).stderr
    path.write_bytes(b'mountpoint = "/a"\npage-size = "1G"\nsize = "4M"\n')
    assert f"{path}:2: a tmpfs region has no 1G pages" in run("check-config", str(path)).stderr


def test_a_name_stands_for_the_file_of_its_unit() -> None:
    assert unit_config.path_of("guests") == "/etc/guestmemfs/guests.toml"
    assert unit_config.path_of("/tmp/x.toml") == "/tmp/x.toml"
    assert unit_config.name_of("/etc/guestmemfs/mnt-guests.toml") == "mnt-guests"
    for wrong in ("/etc/guestmemfs/guests.conf", "/etc/guestmemfs/a+b.toml", "/etc/guestmemfs/.toml"):
        with pytest.raises(UsageError, match="not called after an instance"):
            unit_config.name_of(wrong)


def test_a_mistake_without_a_line_names_the_file_only() -> None:
    assert Mistake(0, "size is missing").at("/a.toml") == "/a.toml: size is missing"
    assert Mistake(3, "bad").at("/a.toml") == "/a.toml:3: bad"
