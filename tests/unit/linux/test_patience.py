"""The factor for time limits comes from the environment, and nonsense does no harm."""

from __future__ import annotations

import pytest

from guestmemfs_fuse.linux import patience


@pytest.mark.parametrize(
    ("text", "limit_s"), [("1", 10.0), ("2.5", 25.0), ("0", 10.0), ("soon", 10.0), ("", 10.0)]
)
def test_a_limit_is_multiplied_and_never_shortened(
    text: str, limit_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(patience.VARIABLE, text)
    assert patience.patient(10.0) == limit_s
