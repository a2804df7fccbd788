"""Which guests are refused, and whether the hint names the argument that changes it."""

from __future__ import annotations

import asyncio
import mmap
import os
from dataclasses import replace
from pathlib import Path

import pytest

from guestmemfs_fuse.vm import inspect
from guestmemfs_fuse.vm.errors import NotPreservableError
from guestmemfs_fuse.vm.inspect import Backend, FileIdentity, GuestRam
from tests.unit.vm.fake_qemu import FakeQemu, identify_any

GOOD = Backend(
    name="ram0",
    kind="memory-backend-file",
    size_bytes=512 << 20,
    path=Path("/mnt/guest"),
    is_shared=True,
    discards_data=False,
    mapping=FileIdentity((0, 42), 7),
    is_mapped=True,
)


def test_a_shared_file_on_our_mount_is_accepted() -> None:
    assert inspect.objections([GOOD]) == []
    inspect.require_preservable(GuestRam((GOOD,), ()))


@pytest.mark.parametrize(
    ("backend", "problem", "change"),
    [
        (
            replace(GOOD, kind="memory-backend-ram", path=None, mapping=None, is_mapped=False),
            "memory-backend-ram, not a file",
            "-object memory-backend-file,id=ram0,size=512M,mem-path=FILE,share=on",
        ),
        (
            replace(GOOD, kind="memory-backend-memfd", path=None, mapping=None, is_mapped=False),
            "memory-backend-memfd, not a file",
            "-machine memory-backend=ram0",
        ),
        (
            replace(GOOD, is_shared=False),
            "private to QEMU",
            "add share=on to -object memory-backend-file,id=ram0",
        ),
        (
            replace(GOOD, name="pc.ram", is_shared=False),
            "private to QEMU",
            "instead of -mem-path give -object memory-backend-file,id=pc.ram,size=512M,mem-path=/mnt/guest,",
        ),
        (replace(GOOD, discards_data=True), "discard-data=on", "remove discard-data=on"),
        (replace(GOOD, mapping=None, is_mapped=False), "not a file on a guestmemfs mount", "set mem-path="),
        (replace(GOOD, is_mapped=False), "was replaced after QEMU had opened it", "its name /mnt/guest back"),
    ],
)
def test_ram_that_would_be_lost_is_named_with_its_cure(backend: Backend, problem: str, change: str) -> None:
    (objection,) = inspect.objections([backend])
    assert problem in objection.problem and backend.name in objection.problem
    assert change in objection.change


def test_every_backend_is_judged() -> None:
    bad = replace(GOOD, name="nvdimm0", is_shared=False)
    with pytest.raises(NotPreservableError, match="nvdimm0") as caught:
        inspect.require_preservable(GuestRam((GOOD, bad), ()))
    assert "ram0 " not in caught.value.message


def test_a_guest_without_any_backend_is_refused() -> None:
    assert len(inspect.objections([])) == 1


def test_backends_are_read_with_paths_relative_to_the_vmm(tmp_path: Path) -> None:
    qemu = FakeQemu(tmp_path / "ram")
    try:
        ram = asyncio.run(inspect.read_ram(qemu, identify=identify_any))
    finally:
        qemu.end()
    assert ram.paths == (tmp_path / "ram",)
    (backend,) = ram.backends
    assert backend.is_shared and backend.is_mapped and not backend.discards_data


def test_a_file_elsewhere_is_not_on_our_mount(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert inspect.identify_on_mount(tmp_path / "file") is None
    assert inspect.identify_on_mount(tmp_path / "missing") is None


def test_a_mapping_is_found_by_the_file_not_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "ram"
    path.write_bytes(bytes(mmap.PAGESIZE))
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), mmap.PAGESIZE):
        mapped = _identity(path)
        path.rename(tmp_path / "old")
        path.write_bytes(bytes(mmap.PAGESIZE))
        assert inspect.maps_file(os.getpid(), mapped)
        assert not inspect.maps_file(os.getpid(), _identity(path))


def _identity(path: Path) -> FileIdentity:
    status = path.stat()
    return FileIdentity((os.major(status.st_dev), os.minor(status.st_dev)), status.st_ino)
