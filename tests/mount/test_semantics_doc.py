"""docs/semantics.md is true: its examples are executed, and its differences are those of the suite."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli import COMMAND, REPOSITORY
from tests.mount.filesystem import Mounted, mounted
from tests.mount.posix.differences import DIFFERENCES

DOCUMENT = REPOSITORY / "docs" / "semantics.md"
TEXT = DOCUMENT.read_text()
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_END = "--- end of one command ---"


@dataclass(frozen=True, slots=True)
class Example:
    """A fenced block: commands, each with what it prints. `line` is where it stands in the document."""

    line: int
    steps: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return f"line_{self.line}"


def examples() -> Iterator[Example]:
    for block in _BLOCK.finditer(TEXT):
        steps: list[tuple[str, str]] = []
        for line in block[1].splitlines():
            if line.startswith("$ "):
                steps.append((line[2:], ""))
            else:
                command, output = steps.pop()
                steps.append((command, f"{output}{line}\n"))
        yield Example(TEXT.count("\n", 0, block.start()) + 1, tuple(steps))


EXAMPLES = list(examples())


@pytest.fixture(scope="module")
def fs() -> Iterator[Mounted]:
    with mounted("semantics") as made:
        yield made


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_an_example_prints_what_the_document_says(example: Example, fs: Mounted) -> None:
    directory = fs.instance.mountpoint / str(example)
    directory.mkdir()
    script = "".join(f"{command}\necho '{_END}'\n" for command, _ in example.steps)
    cli = fs.instance.cli
    environment = {
        "PATH": f"{COMMAND.parent}:{os.environ['PATH']}",
        "LC_ALL": "C",
        "GUESTMEMFS_RUN_DIR": str(cli.run_dir),
    }
    shell = subprocess.run(
        ["bash"],
        input=script,
        cwd=directory,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    said = shell.stdout.split(f"{_END}\n")
    assert len(said) == len(example.steps) + 1, shell.stdout
    for (command, expected), printed in zip(example.steps, said, strict=False):
        # A shell that reads a script says where it is; a person's shell does not.
        assert re.sub(r"bash: line \d+: ", "bash: ", printed) == expected, command


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 7
    assert sum(len(example.steps) for example in EXAMPLES) >= 30


def listed() -> dict[str, str]:
    """Check ids in the document's lists, with the heading each stands under."""
    found: dict[str, str] = {}
    heading = ""
    for line in TEXT.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif match := re.fullmatch(r"- `([a-z]+: [^`]+)`", line):
            assert match[1] not in found, f"{match[1]} is listed twice"
            found[match[1]] = heading
    return found


def test_the_document_lists_the_differences_of_the_suite_and_no_others() -> None:
    assert listed() == {check: difference.reason for check, difference in DIFFERENCES.items()}


def test_links_and_files_it_names_exist() -> None:
    for name in re.findall(r"`((?:tests|docs)/[\w./]+)`", TEXT):
        assert (REPOSITORY / name).exists(), name
    for link in re.findall(r"\]\(([\w./-]+)\)", TEXT):
        assert (Path(DOCUMENT).parent / link).exists(), link
