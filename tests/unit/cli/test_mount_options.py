"""The words behind -o: ours, other people's, impossible ones, and those that nobody knows."""

from __future__ import annotations

import pytest

from guestmemfs_fuse.cli import mount_helper
from guestmemfs_fuse.cli.mount_options import parse
from guestmemfs_fuse.core.errors import UnsupportedError, UsageError


def test_our_words_are_the_options_of_mount() -> None:
    parsed = parse("rw,size=1G,region=hugetlb,page-size=1G,numa-node=1,state-dir=/a,dax-dir=/b,reserve")
    assert parsed.wishes == {
        "size_bytes": 1 << 30,
        "kind": "hugetlb",
        "page_bytes": 1 << 30,
        "numa_node": 1,
        "state_dir": "/a",
        "dax_dir": "/b",
        "reserve": True,
    }


def test_words_for_mount_and_systemd_pass() -> None:
    words = "defaults,nofail,_netdev,noatime,nosuid,x-systemd.requires=foo,comment=a=b,user_id=0,group_id=0"
    assert parse(words) == parse("")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("compress", "unknown option compress"),
        ("rw,regoin=tmpfs", "unknown option regoin=tmpfs"),
        ("nofail=1", "unknown option nofail=1"),
        ("ro", "option ro is not possible"),
        ("exec", "option exec is not possible"),
        ("size=0", "size=0: "),
        ("size", "option size: "),
        ("page-size=4M", "is 2M or 1G"),
        ("dax-dir=here", "absolute path"),
        ("numa-node=-1", "NUMA node"),
        ("huge=yes", "prefer, require"),
        ("reserve=1", "takes no value"),
    ],
)
def test_others_are_refused_by_name(words: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse(words)


def test_sloppy_passes_over_the_unknown_only() -> None:
    assert parse("compress,size=2M", sloppy=True).wishes == {"size_bytes": 2 << 20}
    with pytest.raises(UsageError, match="option ro is not possible"):
        parse("ro", sloppy=True)


def test_a_call_is_read_as_mount_writes_it() -> None:
    call = mount_helper.read(
        ["vm1", "/mnt", "-v", "-n", "-o", "rw,size=2M", "-o", "remount", "-t", "guestmemfs"]
    )
    assert (call.name, call.directory, call.fake) == ("vm1", "/mnt", False)
    assert call.options.remount and call.options.wishes == {"size_bytes": 2 << 20}
    assert mount_helper.read(["-f", "vm1", "/mnt"]).fake


@pytest.mark.parametrize("arguments", [[], ["vm1"], ["a", "b", "c"], ["a", "b", "-q"], ["a", "b", "-N", "1"]])
def test_wrong_usage_is_exit_code_1(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert mount_helper.main(arguments) == 1
    assert capsys.readouterr().err.startswith("mount.guestmemfs: ")


def test_a_host_that_lacks_something_is_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(call: object) -> None:
        raise UnsupportedError("no /dev/fuse", hint="modprobe fuse")

    monkeypatch.setattr(mount_helper, "_obey", refuse)
    assert mount_helper.main(["vm1", "/mnt"]) == 2
    assert capsys.readouterr().err == "mount.guestmemfs: no /dev/fuse\nmount.guestmemfs: modprobe fuse\n"


@pytest.mark.parametrize(
    ("said", "here"),
    [
        ("instance a is new and needs --size", "instance a is new and needs size"),
        ("for example --size 4G", "for example size=4G"),
        (
            "instance a exists with --region tmpfs, not memfd",
            "instance a exists with region=tmpfs, not memfd",
        ),
        ("use --region hugetlb, or --page-size 2M", "use region=hugetlb, or page-size=2M"),
        ("--numa-node is one of 0, 1", "numa-node is one of 0, 1"),
        ("--reserve does not go with --region tmpfs", "reserve does not go with region=tmpfs"),
        ("another instance needs another --name", "another instance needs another --name"),
    ],
)
def test_options_are_named_as_they_are_written_behind_o(said: str, here: str) -> None:
    assert mount_helper.as_mount_options(said) == here
