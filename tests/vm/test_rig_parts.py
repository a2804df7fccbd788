"""The parts of the rig that need no machine: module dependencies, cpio members, kernel directories."""

from __future__ import annotations

import io
import lzma
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from . import machine
from .errors import VmSetupError
from .initramfs import build, cpio_member
from .kernels import Kernel, kernel_in
from .modules import depends_of, load_order


def _module(*depends: str) -> bytes:
    return b"\x7fELF...\0license=GPL\0depends=" + ",".join(depends).encode() + b"\0name=x\0"


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    """A kernel of four modules: top -> middle -> bottom, top -> bottom, and one that is built in."""
    modules = tmp_path / "lib/modules/6.99-test"
    (modules / "kernel/fs").mkdir(parents=True)
    (modules / "kernel/fs/top.ko.xz").write_bytes(lzma.compress(_module("bottom-half", "middle", "solid")))
    (modules / "kernel/fs/middle.ko").write_bytes(_module("bottom-half"))
    (modules / "kernel/bottom_half.ko").write_bytes(_module())
    (modules / "modules.builtin").write_text("kernel/fs/solid.ko\n")
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot/vmlinuz-6.99-test").touch()
    (tmp_path / "boot/config-6.99-test").write_text(
        "CONFIG_FUSE_FS=y\n# CONFIG_FUSE is not set\nCONFIG_X=m\n"
    )
    return kernel_in(tmp_path, "test")


def test_modules_come_after_what_they_need(kernel: Kernel) -> None:
    assert [name for name, _ in load_order(kernel, ["top", "bottom_half"])] == [
        "bottom_half",
        "middle",
        "top",
    ]
    assert dict(load_order(kernel, ["top"]))["top"].startswith(b"\x7fELF")


def test_builtin_modules_are_left_out_and_unknown_ones_named(kernel: Kernel) -> None:
    assert load_order(kernel, ["solid"]) == []
    with pytest.raises(VmSetupError, match="no module nonesuch"):
        load_order(kernel, ["nonesuch"])


def test_depends_of_a_module_without_any() -> None:
    assert depends_of(_module()) == []
    assert depends_of(b"no module info at all") == []


def test_kernel_options_are_read_by_exact_name(kernel: Kernel) -> None:
    assert [kernel.option(name) for name in ("FUSE_FS", "X", "FUSE", "NONE")] == ["y", "m", None, None]


def test_directory_without_a_kernel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VmSetupError, match="one vmlinuz"):
        kernel_in(tmp_path, "empty")


def test_cpio_members_are_padded_to_four_bytes() -> None:
    for size in range(5):
        assert len(cpio_member("name" + "x" * size, 0o100644, b"d" * size)) % 4 == 0


def test_archive_is_what_cpio_reads_and_does_not_change(kernel: Kernel) -> None:
    archive = build(kernel, ["top"])
    assert archive == build(kernel, ["top"])
    listed = subprocess.run(["cpio", "-it"], input=archive, capture_output=True, check=True).stdout.split()
    assert {b"init", b"bin/busybox", b"dev/console", b"rig/run-phase", b"modules/top.ko"} <= set(listed)
    order = subprocess.run(
        ["cpio", "-i", "--to-stdout", "modules/order"], input=archive, capture_output=True, check=True
    ).stdout
    assert io.BytesIO(order).readlines() == [b"bottom_half.ko\n", b"middle.ko\n", b"top.ko\n"]


def test_a_virtiofsd_that_meets_one_on_its_way_out_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As right behind a run that was killed: its virtiofsd has the pid file a moment longer than its lock."""
    script = "[ -e met ] && touch tag.sock && exec sleep 60; touch met; echo Cannot lock pid file; exit 1"
    monkeypatch.setattr(machine, "virtiofsd_args", lambda *asked: ["sh", "-c", script])
    with ExitStack() as stack:
        machine._serve(stack, "tag", tmp_path, "none", tmp_path)
        assert (tmp_path / "tag.sock").exists()
    monkeypatch.setattr(machine, "virtiofsd_args", lambda *asked: ["sh", "-c", "echo no such share; exit 1"])
    with ExitStack() as stack, pytest.raises(VmSetupError, match="no such share"):
        machine._serve(stack, "tag", tmp_path, "none", tmp_path)
