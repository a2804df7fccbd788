"""Every refusal has an errno of its own row, and the one its docstring promises."""

from __future__ import annotations

import errno

import pytest

from guestmemfs_fuse.core import errors
from guestmemfs_fuse.fuse.errno_map import ERRNO, errno_of


def refusals(kind: type[errors.FsError] = errors.FsError) -> list[type[errors.FsError]]:
    return [below for child in kind.__subclasses__() for below in (child, *refusals(child))]


@pytest.mark.parametrize("kind", [k for k in refusals() if k.__module__ == errors.__name__])
def test_every_refusal_has_the_errno_its_docstring_names(kind: type[errors.FsError]) -> None:
    assert kind in ERRNO, f"{kind.__name__} needs a row in errno_map"
    assert f"({errno.errorcode[ERRNO[kind]]})" in (kind.__doc__ or "").replace("EOPNOTSUPP", "ENOTSUP")
    assert errno_of(kind()) == ERRNO[kind]


def test_a_refusal_made_elsewhere_is_what_its_parent_is() -> None:
    class Special(errors.BusyFsError):
        pass

    assert errno_of(Special()) == errno.EBUSY


@pytest.mark.parametrize("error", [ValueError(), errors.GuestmemfsError("x"), errors.FsError()])
def test_what_is_no_refusal_of_ours_is_eio(error: Exception) -> None:
    assert errno_of(error) == errno.EIO
