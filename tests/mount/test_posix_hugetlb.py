"""The conformance suite's tables about files, on a hugetlb region: the same answers, but for the mappings.

Such a region's files cannot be mapped through the mount (ENODEV), and know no direct I/O (EINVAL). A check
that maps, as its run on the control shows, must be told so here; every other check must answer as ever.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.mount.posix import test_fallocate, test_lseek, test_open, test_tmpfile, test_truncate, test_unlink
from tests.mount.posix.places import REGION_VARIABLE, side_by_side
from tests.mount.posix.table import Check, Places, Table, hold, run_check
from tests.mount.posix.user import User
from tests.require import require
from tests.zoo.rig import POOL, pool_lock

NO_DIRECT_IO: Final = {"open: a file past the cache"}
TABLES: Final = [
    each.table for each in (test_fallocate, test_lseek, test_open, test_tmpfile, test_truncate, test_unlink)
]


class Mappings:
    """Counts the calls that map a file."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.count = 0
        make = User.call

        def call(user: User, name: str, *args: object, **kwargs: object) -> Any:
            self.count += name in ("mmap", "maps")
            return make(user, name, *args, **kwargs)

        patch.setattr(User, "call", call)


@pytest.fixture(scope="module")
def places() -> Iterator[Places]:
    require(POOL.exists(), "2M huge pages")
    with pytest.MonkeyPatch.context() as patch, pool_lock():
        patch.setenv(REGION_VARIABLE, "hugetlb")
        with side_by_side("posix-huge", "128M") as (both, _):
            yield both


def is_refused(check: Check, places: Places) -> bool:
    """Whether the check meets a mapping that is not possible."""
    try:
        return "ENODEV" in repr(run_check(check, places.mount))
    except OSError as error:
        return error.errno == errno.ENODEV


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.call)
def test_files_of_a_hugetlb_region(table: Table, places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    mappings = Mappings(monkeypatch)
    wrong: list[str] = []
    for check in table.checks:
        mappings.count = 0
        said = run_check(check, places.control)
        if mappings.count:
            if not is_refused(check, places):
                wrong.append(f"{check.id}: its mapping was not refused")
        elif check.id in NO_DIRECT_IO:
            if (said, answer := run_check(check, places.mount)) != ("ok", "EINVAL"):
                wrong.append(f"{check.id}: {answer!r}")
        else:
            try:
                hold(check, places.mount, places.control)
            except (AssertionError, OSError) as error:
                wrong.append(f"{check.id}: {error}")
    assert not wrong, "\n".join(wrong)
