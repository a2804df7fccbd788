"""What a test needs of the host, said once: a skip that names what is missing; in strict mode a failure."""

from __future__ import annotations

import os

import pytest

STRICT_VARIABLE = "GUESTMEMFS_STRICT"


def is_strict() -> bool:
    """Whether a missing ability is a failure (CI) rather than a skip."""
    return os.environ.get(STRICT_VARIABLE, "") not in ("", "0")


def require(condition: object, what: str) -> None:
    """Go on only if `condition` holds; `what` names the missing thing: "root", "/dev/fuse", "QEMU"."""
    if condition:
        return
    if is_strict():
        pytest.fail(f"this host lacks {what}, and {STRICT_VARIABLE} is set", pytrace=False)
    pytest.skip(f"needs {what} ({STRICT_VARIABLE}=1 makes this a failure)")
