"""Man pages and completion scripts say what the commands are, no more and no less."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from guestmemfs_fuse.cli import completion
from guestmemfs_fuse.cli.lazy import Entry
from guestmemfs_fuse.cli.main import ENTRIES
from guestmemfs_fuse.cli.man import _escape, main, pages
from guestmemfs_fuse.cli.mount_options import _OURS, IMPOSSIBLE
from tests.require import require

PAGES = pages()


def test_there_is_a_page_for_every_command() -> None:
    assert set(PAGES) == {"guestmemfs.1", "mount.guestmemfs.8"} | {
        f"guestmemfs-{entry.name}.1" for entry in ENTRIES
    }


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_a_page_has_every_option_argument_and_sentence(entry: Entry) -> None:
    page, command = PAGES[f"guestmemfs-{entry.name}.1"], entry.load()
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert all(_escape(name) in page for name in parameter.opts)
            assert _escape(parameter.help or "") in page
        else:
            assert parameter.make_metavar(click.Context(command)) in page
    words = (command.help or "").replace("\b", "").split()
    assert [_escape(word) for word in words if _escape(word).strip("\\&") not in page] == []
    assert entry.name in PAGES["guestmemfs.1"].replace("\\-", "-")


def test_the_helpers_page_has_its_options() -> None:
    for option in [*_OURS, *IMPOSSIBLE]:
        assert f".B {_escape(option)}" in PAGES["mount.guestmemfs.8"]


def test_pages_are_troff_without_complaint(tmp_path: Path) -> None:
    require(shutil.which("groff"), "groff")
    assert main(["man", str(tmp_path)]) == 0
    for page in sorted(tmp_path.iterdir()):
        done = subprocess.run(
            ["groff", "-man", "-ww", "-z", "-Tutf8", str(page)], capture_output=True, text=True, check=True
        )
        assert done.stderr == "", page.name


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_the_completion_script_is_what_the_shell_understands(
    run: Callable[..., Any], shell: str, tmp_path: Path
) -> None:
    done = run("completion", shell)
    assert done.exit_code == 0 and completion.VARIABLE in done.stdout
    if shutil.which(shell) is not None:
        (tmp_path / "script").write_text(done.stdout)
        subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)


def completed(*words: str) -> list[str]:
    program = "import sys; sys.argv[0] = 'guestmemfs'; from guestmemfs_fuse.cli.main import main; main()"
    environment = {
        **os.environ,
        completion.VARIABLE: "bash_complete",
        "COMP_WORDS": " ".join(["guestmemfs", *words]),
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_commands_options_and_instances_complete(make_instance: Callable[..., object]) -> None:
    make_instance("guests")
    make_instance("other", "/mnt/other")
    assert completed("um") == ["umount"]
    assert completed("resize", "--si") == ["--size"]
    assert completed("umount", "gue") == ["guests"]
    assert completed("status", "") == ["guests", "other"]
