"""Why a daemon does not run: one text for STATE_DIR/last_words, for whoever waits for its start, for people.

    the daemon exited with status 7
    error: OutOfMemoryError: 4 GiB wanted, 1 GiB free
    hint: ask for less

    ...the end of its stderr...

Pure. Written by the holder (so it imports nothing), read by handover/launch.py.
"""

from __future__ import annotations


class LastWords:
    """What is known about a daemon's end. class_name, message and hint are '' when it said nothing."""

    __slots__ = ("class_name", "hint", "message", "reason", "tail")

    def __init__(
        self, reason: str, class_name: str = "", message: str = "", hint: str = "", tail: str = ""
    ) -> None:
        self.reason = reason
        self.class_name = class_name
        self.message = message
        self.hint = hint
        self.tail = tail

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LastWords) and str(self) == str(other)

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        lines = [_line(self.reason)]
        if self.class_name:
            lines.append(f"error: {_line(self.class_name)}: {_line(self.message)}")
        if self.hint:
            lines.append(f"hint: {_line(self.hint)}")
        return "\n".join(lines) + "\n\n" + self.tail


def parse(text: str) -> LastWords:
    """The inverse of str(); whatever else the text is becomes reason and tail."""
    head, _blank, tail = text.partition("\n\n")
    reason, *more = head.split("\n")
    words = LastWords(reason, tail=tail)
    for line in more:
        key, _colon, value = line.partition(": ")
        if key == "error":
            words.class_name, _colon, words.message = value.partition(": ")
        elif key == "hint":
            words.hint = value
    return words


def last_line(text: str) -> str:
    """The last line that says something. Exception groups are drawn: with a frame, and a rule below it."""
    said = (line.strip(" |+-") for line in reversed(text.split("\n")))
    return next(filter(None, said), "")


def _line(text: str) -> str:
    return " ".join(text.split("\n"))
