"""docs/cli.md has every command, option, exit code, condition and JSON key; nothing there is invented.

Nor is anything in README.md, and every page is linked to, and links to what there is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from guestmemfs_fuse.cli.lazy import Entry
from guestmemfs_fuse.cli.main import ENTRIES, cli
from guestmemfs_fuse.cli.sight import Condition
from guestmemfs_fuse.core.errors import ExitCode
from guestmemfs_fuse.core.state import new_state
from guestmemfs_fuse.core.types import Ino
from guestmemfs_fuse.engine import report
from guestmemfs_fuse.metadata.instance import Instance
from guestmemfs_fuse.region.base import BackingStat
from tests.unit.cli.fakes import SERVING, FakeDaemon

REPOSITORY = Path(__file__).resolve().parents[3]
TEXT = (REPOSITORY / "docs" / "cli.md").read_text()


def _section(title: str) -> str:
    """The part under the heading that names `title`, up to the next one of that depth."""
    match = re.search(rf"^### (?:\w+, )?{title}(?:, \w+)?\n(.*?)(?=^##|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert match is not None, f"docs/cli.md has no section {title}"
    return match[1]


def _options(command: click.Command) -> set[str]:
    parameters = [each for each in command.params if isinstance(each, click.Option)]
    found = {option for each in parameters for option in each.opts + each.secondary_opts}
    below = command.commands.values() if isinstance(command, click.Group) else ()
    return found.union(*(_options(each) for each in below))


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_command_has_its_section_with_every_option_and_argument(entry: Entry) -> None:
    command = entry.load()
    section = _section(command.name)
    assert f"guestmemfs {command.name}" in section
    for option in _options(command):
        assert f"`{option}`" in section, option
    for argument in command.params:
        if isinstance(argument, click.Argument):
            assert argument.make_metavar(click.Context(command)).strip("[].") in section


def test_no_option_is_documented_that_does_not_exist() -> None:
    known = _options(cli) | {"--help", "--json"}
    for entry in ENTRIES:
        known |= _options(entry.load())
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TEXT)) <= known


def test_options_of_the_whole_are_documented() -> None:
    for option in [*_options(cli), "-h", "--help"]:
        assert f"`{option}`" in TEXT


def test_every_exit_code_is_documented() -> None:
    for code in [*ExitCode, 130]:
        assert re.search(rf"^\| {int(code)} \|", TEXT, re.MULTILINE), code


def test_every_condition_is_documented() -> None:
    for condition in Condition:
        assert f"`{condition.value}`" in _section("list")


def test_every_key_of_a_file_is_documented() -> None:
    state = new_state(region_bytes=4 << 20, block_bytes=2 << 20, now_ns=1)
    row = report._file("/x", state.inodes[Ino(1)], _NoRegion(), [], 0)  # type: ignore[arg-type]
    for key in [*row, "extents"]:
        assert f"`{key}`" in _section("map"), key


class _NoRegion:
    """Has nothing to measure."""

    def stat(self, inode: object) -> object:
        return BackingStat(0, 0)


def test_every_key_of_list_and_status_is_documented(
    make_instance: Callable[..., Instance],
    daemon: FakeDaemon,
    see: Callable[..., None],
    run_json: Callable[..., Any],
) -> None:
    make_instance()
    see(SERVING)
    daemon.serves()
    daemon.answers["status"] = {}
    listed = _section("list")
    for key in run_json("list")[0]:
        assert f"`{key}`" in listed, key
    for key in run_json("status", "guests"):
        assert f"`{key}`" in _section("status"), key


# -- README.md -------------------------------------------------------------------------------------------

README = (REPOSITORY / "README.md").read_text()


def test_commands_in_the_readme_are_commands_with_such_options() -> None:
    entries = {entry.name: entry for entry in ENTRIES}
    shown = re.findall(r"^    (?:.*&& )?guestmemfs ([a-z]+)([^#\n]*)", README, re.MULTILINE)
    assert {name for name, _ in shown} >= {"mount", "umount", "restart", "status", "destroy", "doctor"}
    for name, arguments in shown:
        assert set(re.findall(r"--[a-z-]+", arguments)) <= _options(entries[name].load()), name


def test_targets_in_the_readme_are_targets() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = set(re.findall(r"`?make ([a-z-]+)", README))
    assert {"demo", "test", "setup"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


# -- all pages -------------------------------------------------------------------------------------------

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


def _links(page: Path) -> list[tuple[Path, str]]:
    """The file and the heading of each link into the repository; a link within the page names the page."""
    targets = re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", page.read_text())
    return [((page.parent / path).resolve() if path else page, heading) for path, heading in targets]


def _headings(page: Path) -> set[str]:
    """As GitHub spells them in a link."""
    lines = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_what_a_page_links_to_exists(page: Path) -> None:
    for target, heading in _links(page):
        assert target.exists(), target
        assert not heading or heading in _headings(target), f"{target}#{heading}"


def test_every_page_is_reached_from_the_readme() -> None:
    seen, queue = set(PAGES[:1]), PAGES[:1]
    while queue:
        for target, _ in _links(queue.pop()):
            if target.suffix == ".md" and target not in seen:
                seen.add(target)
                queue.append(target)
    assert set(PAGES) <= seen
