"""The configuration file of a unit: /etc/guestmemfs/NAME.toml, checked with the line of every mistake.

    mountpoint = "/srv/guests"
    size = "64G"
    region = "tmpfs"

Keys are the options of `guestmemfs mount`; the instance is called as the file is. Pure: text in, wishes or
mistakes out. Called by `serve` and `check-config`.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from guestmemfs_fuse.cli.settings import SETTINGS, Understand, absolute_path
from guestmemfs_fuse.cli.wishes import Wishes, hides
from guestmemfs_fuse.core.errors import GuestmemfsError, UsageError
from guestmemfs_fuse.metadata.instance import valid_name

DIRECTORY = "/etc/guestmemfs"
SUFFIX = ".toml"
_SMALLEST = 'mountpoint = "/srv/guests" and size = "4G"'
_OPTION = re.compile(r"--([a-z-]+)")
_AT_LINE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


@dataclass(frozen=True, slots=True)
class Mistake:
    """line: 1-based, 0 where the file as a whole is meant."""

    line: int
    text: str

    def at(self, path: str) -> str:
        """As compilers say it."""
        return f"{path}:{self.line}: {self.text}" if self.line else f"{path}: {self.text}"


class ConfigError(UsageError):
    """A configuration file was refused; `mistakes` are all that were found, in the file's order."""

    def __init__(self, path: str, mistakes: list[Mistake]) -> None:
        self.mistakes = sorted(mistakes, key=lambda each: each.line)
        first, *more = self.mistakes
        rest = f" (and {len(more)} more)" if more else ""
        super().__init__(first.at(path) + rest, hint=f"`guestmemfs check-config {path}` shows all of them")


def path_of(name_or_path: str) -> str:
    """A file named by its path (it has a '/' or ends with .toml), or that of an instance's name."""
    if "/" in name_or_path or name_or_path.endswith(SUFFIX):
        return os.path.abspath(name_or_path)
    return os.path.join(DIRECTORY, name_or_path + SUFFIX)


def name_of(path: str) -> str:
    """The instance a file is for. Raises UsageError when the file's name cannot be one."""
    name = os.path.basename(path).removesuffix(SUFFIX)
    # systemd.unit(5): a unit's name has no '+', and escaping it would escape '-' too.
    if not path.endswith(SUFFIX) or not valid_name(name) or "+" in name:
        raise UsageError(
            f"{path} is not called after an instance",
            hint=f"NAME{SUFFIX}, with letters, digits and _ . : - in NAME",
        )
    return name


def read(path: str) -> Wishes:
    """The wishes in the file. Raises ConfigError, or UsageError when it cannot be read at all."""
    name = name_of(path)
    try:
        with open(path, "rb") as file:
            raw = file.read()
    except OSError as error:
        hint = f"two lines make one: {_SMALLEST}" if isinstance(error, FileNotFoundError) else None
        raise UsageError(f"{path}: {error.strerror}", hint=hint) from error
    wishes, mistakes = parse(raw, name)
    if wishes is None:
        raise ConfigError(path, mistakes)
    return wishes


def parse(raw: bytes, name: str) -> tuple[Wishes | None, list[Mistake]]:
    """The wishes that raw stands for, or None and every mistake in it."""
    try:
        text = raw.decode()
        values = tomllib.loads(text)
    except UnicodeDecodeError as error:
        return None, [Mistake(raw.count(b"\n", 0, error.start) + 1, "is not UTF-8")]
    except tomllib.TOMLDecodeError as error:
        return None, [_syntax(str(error), text)]
    lines = _lines_of_keys(text)
    mistakes = []
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        line = lines.get(key, 0)
        if key not in _KEYS:
            mistakes.append(Mistake(line, _unknown(key)))
            continue
        field, understand = _KEYS[key]
        try:
            arguments[field] = understand(value)
        except ValueError as error:
            mistakes.append(Mistake(line, f"{key}: {error}"))
    mistakes += [Mistake(0, f"{key} is missing") for key in _REQUIRED if key not in values]
    if hides(arguments.get("mountpoint"), arguments.get("state_dir")):
        mistakes.append(Mistake(lines.get("state-dir", 0), "state-dir: would be hidden by the mount"))
    if mistakes:
        return None, mistakes
    return Wishes(name=name, foreground=True, **arguments), []


def refusal(raw: bytes, error: GuestmemfsError) -> Mistake:
    """What `mount` would refuse although each value is right: in the words of the file raw, with the line."""
    text = error.message + (f" ({error.hint})" if error.hint else "")
    lines = _lines_of_keys(raw.decode())
    named = [lines[option] for option in _OPTION.findall(text) if option in lines]
    return Mistake(named[0] if named else 0, _OPTION.sub(r"\1", text))


def _syntax(message: str, text: str) -> Mistake:
    where = _AT_LINE.search(message)
    line = int(where[1]) if where and where[1] else max(1, len(text.splitlines()))
    return Mistake(line, _AT_LINE.sub("", message))


def _lines_of_keys(text: str) -> dict[str, int]:
    """Top-level keys and tables; the format has no nesting, so a line's beginning tells."""
    found: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        match = re.match(r"\s*\[*\s*(?:\"([^\"]*)\"|'([^']*)'|([A-Za-z0-9_-]+))\s*[=.\]]", line)
        if match:
            found.setdefault(match[1] or match[2] or match[3], number)
    return found


def _unknown(key: str) -> str:
    import difflib

    near = difflib.get_close_matches(key.replace("_", "-"), _KEYS, 1)
    known = f"did you mean {near[0]}?" if near else f"known are {', '.join(_KEYS)}"
    return f"unknown key {key!r}; {known}"


def _mountpoint(value: object) -> str:
    path = os.path.normpath(absolute_path(value))
    if not path.strip("/"):
        raise ValueError("is a directory of its own, not the root of everything")
    return path


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"is true or false, not {value!r}")
    return value


_KEYS: Mapping[str, tuple[str, Understand]] = {
    "mountpoint": ("mountpoint", _mountpoint),
    **SETTINGS,
    "reserve": ("reserve", _flag),
}
_REQUIRED = ("mountpoint", "size")
