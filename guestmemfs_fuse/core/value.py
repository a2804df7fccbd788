"""`@value`: what `@dataclass(frozen=True, slots=True)` makes of a class, in an eighth of the time.

dataclass() compiles half a dozen methods of each class from source text. For the fifty classes of commands
and records that was a seventh of a daemon's start, for which callers wait after a crash. Here one method is
compiled, __init__; the others are closures.

For plain values only: no inheritance, no field(), defaults that nobody can change. Everything else is as
with a dataclass, `match` and dataclasses.fields, replace and asdict included: these get a dataclass's own
description when they ask for it. Called by the modules of core, at import.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar, dataclass_transform

_T = TypeVar("_T")
_Plain = dict[str, Any]


class FieldOfValue(NamedTuple):
    """One field: its name, its annotation as it stands in the source, and whether it has a default."""

    name: str
    annotation: str
    has_default: bool


def fields_of(cls: type[Any]) -> tuple[FieldOfValue, ...]:
    """The fields of a value class, in their order."""
    found: tuple[FieldOfValue, ...] = cls.__value_fields__
    return found


@dataclass_transform(frozen_default=True)
def value(cls: type[_T]) -> type[_T]:
    """The decorator: a frozen class with slots of `cls`, whose annotations are its fields."""
    plain = dict(vars(cls))
    annotations: dict[str, str] = plain.get("__annotations__", {})
    names = [name for name, kind in annotations.items() if not kind.startswith("ClassVar")]
    defaults = {name: plain[name] for name in names if name in plain}
    left_out = {*defaults, "__dict__", "__weakref__"}
    own = {name: each for name, each in plain.items() if name not in left_out}
    own |= {"__slots__": tuple(names), "__match_args__": tuple(names), "__qualname__": cls.__qualname__}
    own |= {"__setattr__": _refuse, "__delattr__": _refuse, "__dataclass_fields__": _Description(defaults)}
    described = (FieldOfValue(name, annotations[name], name in defaults) for name in names)
    own["__value_fields__"] = tuple(described)
    own |= _methods(names)
    made: Any = type(cls.__name__, cls.__bases__, own)
    made.__init__ = _initializer(made, names, defaults)
    return made  # type: ignore[no-any-return]


def _initializer(made: type[Any], names: list[str], defaults: _Plain) -> Callable[..., None]:
    """Setting by the slots' own descriptors: what is frozen is object.__setattr__'s way in."""
    known: _Plain = {f"_set_{name}": getattr(made, name).__set__ for name in names}
    known |= {f"_default_{name}": default for name, default in defaults.items()}
    parameters = [f"{name}=_default_{name}" if name in defaults else name for name in names]
    body = [f" _set_{name}(self, {name})" for name in names] or [" pass"]
    exec("\n".join([f"def __init__({', '.join(['self', *parameters])}):", *body]), known)
    init: Callable[..., None] = known["__init__"]
    init.__qualname__ = f"{made.__qualname__}.__init__"
    return init


def _methods(names: list[str]) -> _Plain:
    of: Callable[[Any], Any] = attrgetter(*names) if names else lambda _value: ()

    def equal(self: Any, other: object) -> bool:
        return of(self) == of(other) if other.__class__ is self.__class__ else NotImplemented

    def hashed(self: Any) -> int:
        return hash(of(self))

    def shown(self: Any) -> str:
        said = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{type(self).__qualname__}({said})"

    def reduced(self: Any) -> tuple[type[Any], tuple[Any, ...]]:
        return type(self), tuple(getattr(self, name) for name in names)

    return {"__eq__": equal, "__hash__": hashed, "__repr__": shown, "__reduce__": reduced}


def _refuse(self: object, name: str, *_: object) -> None:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot change field {name!r}")


class _Description:
    """__dataclass_fields__, made when somebody asks, by making the dataclass after all."""

    def __init__(self, defaults: _Plain) -> None:
        self._defaults = defaults

    def __get__(self, _instance: object, owner: type[Any]) -> object:
        from dataclasses import dataclass

        asked = {name: getattr(owner, name) for name in ("__module__", "__annotations__")}
        twin: Any = type(owner.__name__, (), {**self._defaults, **asked})
        described = dataclass(twin).__dataclass_fields__
        owner.__dataclass_fields__ = described
        return described
