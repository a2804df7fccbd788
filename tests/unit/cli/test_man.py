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
from click.shell_completion import ShellComplete

from guestmemfs_fuse.cli import completion
from guestmemfs_fuse.cli.lazy import Entry
from guestmemfs_fuse.cli.main import ENTRIES, cli
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


_ASK = {
    "bash": """
        source "$SCRIPT"
        COMP_WORDS=($WORDS "$LAST"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        _guestmemfs_completion guestmemfs
        printf '%s\\n' "${COMPREPLY[@]}"
    """,
    "zsh": """
        compdef() { : }
        source $SCRIPT
        compadd() { print -l -- $completions }
        _describe() { print -l -- ${completions_with_descriptions%%:*} }
        words=(${=WORDS} "$LAST"); CURRENT=$#words
        _guestmemfs_completion
    """,
    "fish": """
        source $SCRIPT
        complete -C "$WORDS $LAST"
    """,
}
"""What a shell offers for the last word of a line, asked of the shell itself."""


def offered(shell: str, tmp_path: Path, words: str, last: str) -> list[str]:
    require(shutil.which(shell), shell)
    (tmp_path / "bin").mkdir(exist_ok=True)
    command = tmp_path / "bin" / "guestmemfs"
    program = "from guestmemfs_fuse.cli.main import main; main()"
    command.write_text(f"#!{sys.executable} -P\nimport sys\nsys.argv[0] = 'guestmemfs'\n{program}\n")
    command.chmod(0o755)
    (tmp_path / "script").write_text(completion.script(shell))
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "SCRIPT": str(tmp_path / "script"),
        "WORDS": words,
        "LAST": last,
    }
    no_rc = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    done = subprocess.run(
        [shell, *no_rc, "-c", _ASK[shell]], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    return sorted(line.partition("\t")[0] for line in done.stdout.splitlines() if line)


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_commands_options_choices_and_instances_complete(
    make_instance: Callable[..., object], tmp_path: Path, shell: str
) -> None:
    make_instance("guests")
    make_instance("other", "/mnt/other")
    assert offered(shell, tmp_path, "guestmemfs", "um") == ["umount"]
    assert offered(shell, tmp_path, "guestmemfs mount", "--hu") == ["--huge"]
    assert offered(shell, tmp_path, "guestmemfs mount --region", "m") == ["memfd"]
    assert offered(shell, tmp_path, "guestmemfs status", "") == ["guests", "other"]


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (("umount", "/m"), "dir"),
        (("mount", "gu"), "dir"),
        (("mount", "/m", "--dax-dir", "x"), "dir"),
        (("map", "/m"), "file"),
        (("map", "--svg", "x"), "file"),
        (("metrics", "--textfile", "x"), "file"),
    ],
)
def test_paths_are_left_to_the_shell(
    words: tuple[str, ...], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(completion.VARIABLE, "zsh_complete")
    found = ShellComplete(cli, {}, "guestmemfs", completion.VARIABLE).get_completions(
        list(words[:-1]), words[-1]
    )
    assert [(item.value, item.type) for item in found] == [(words[-1], kind)]
