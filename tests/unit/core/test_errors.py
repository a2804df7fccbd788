"""What an error says when nobody told it what to say."""

from __future__ import annotations

import pytest

from guestmemfs_fuse.core import errors


@pytest.mark.parametrize("kind", errors.FsError.__subclasses__())
def test_regression_a_refusal_without_a_message_is_a_sentence(kind: type[errors.FsError]) -> None:
    """`error: IsDirectoryError` is no answer to `guestmemfs pin DIR`."""
    said = kind().message
    assert " " in said and "Error" not in said and "(" not in said
    assert said[0].islower() and not said.endswith(".")


def test_a_class_that_says_nothing_of_itself_says_what_its_parent_does() -> None:
    class Silent(errors.BusyFsError): ...

    assert Silent().message == errors.BusyFsError().message
