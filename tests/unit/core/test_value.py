"""`@value` makes what a frozen dataclass with slots is, for everybody who looks."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, asdict, dataclass, fields, replace
from typing import Any, ClassVar

import pytest

from guestmemfs_fuse.core.value import fields_of, value


@value
class Ours:
    """A value."""

    TAG: ClassVar[int] = 3
    ino: int
    name: bytes = b"x"
    sizes: tuple[int, ...] = ()

    @property
    def end(self) -> int:
        """Something that follows."""
        return self.ino + len(self.sizes)


@dataclass(frozen=True, slots=True)
class Theirs:
    """A value."""

    TAG: ClassVar[int] = 3
    ino: int
    name: bytes = b"x"
    sizes: tuple[int, ...] = ()

    @property
    def end(self) -> int:
        """Something that follows."""
        return self.ino + len(self.sizes)


@value
class Nothing:
    """Without fields."""


@value
class One:
    """With one field, whose key is no tuple."""

    number: int


BOTH = pytest.mark.parametrize("kind", [Ours, Theirs])


@BOTH
def test_it_is_made_by_position_and_by_name_with_defaults(kind: Any) -> None:
    made = kind(1, sizes=(4, 5))
    assert (made.ino, made.name, made.sizes, made.end, made.TAG) == (1, b"x", (4, 5), 3, 3)
    assert repr(made) == f"{kind.__name__}(ino=1, name=b'x', sizes=(4, 5))"
    for wrong in ((), (1, b"", (), 4)):
        with pytest.raises(TypeError):
            kind(*wrong)


@BOTH
def test_equal_are_those_of_one_class_with_equal_fields(kind: Any) -> None:
    assert kind(1) == kind(1, b"x") and hash(kind(1)) == hash(kind(1))
    assert kind(1) != kind(2) and kind(1) != (1, b"x", ())
    assert Ours(1) != Theirs(1)  # type: ignore[comparison-overlap]
    assert Nothing() == Nothing() and One(1) == One(1) and One(1) != One(2)


@BOTH
def test_nothing_can_be_changed_or_added(kind: Any) -> None:
    made = kind(1)
    for name in ("ino", "end", "other"):
        with pytest.raises((FrozenInstanceError, TypeError)):
            setattr(made, name, 2)
    with pytest.raises((FrozenInstanceError, TypeError)):
        del made.ino
    assert not hasattr(made, "__dict__")


@BOTH
def test_it_can_be_matched_copied_replaced_and_listed(kind: Any) -> None:
    made = kind(1, b"n")
    match made:
        case kind(ino, name):
            assert (ino, name) == (1, b"n")
    assert copy.deepcopy(made) == copy.copy(made) == pickle.loads(pickle.dumps(made)) == made
    assert replace(made, ino=2) == kind(2, b"n")
    assert asdict(made) == {"ino": 1, "name": b"n", "sizes": ()}
    assert [field.name for field in fields(kind)] == ["ino", "name", "sizes"]
    assert (kind.__doc__, kind.__module__, kind.__qualname__) == ("A value.", __name__, kind.__name__)


def test_fields_are_known_without_a_dataclass() -> None:
    assert [tuple(field) for field in fields_of(Ours)] == [
        ("ino", "int", False),
        ("name", "bytes", True),
        ("sizes", "tuple[int, ...]", True),
    ]
    assert fields_of(Nothing) == ()
