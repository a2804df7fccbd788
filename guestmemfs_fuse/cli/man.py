"""Man pages, made from the commands themselves: guestmemfs(1), guestmemfs-COMMAND(1), and the helper's.

A page has what `--help` has, so neither can say something that the other does not know. man(7) macros.
Called by scripts/stage (make install, make man, make deb) and by the test that holds them to the commands.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Iterator

import click

from guestmemfs_fuse import __version__
from guestmemfs_fuse.cli.main import ENTRIES, EXIT_CODES, cli
from guestmemfs_fuse.cli.mount_options import ANYWAY, FOR_OTHERS, IMPOSSIBLE
from guestmemfs_fuse.cli.unit_config import DIRECTORY

_NAME = "guestmemfs"


def pages() -> dict[str, str]:
    """File name (with its section) to the page's text."""
    found = {f"{_NAME}.1": _overview(), "mount.guestmemfs.8": _helper()}
    for entry in ENTRIES:
        found[f"{_NAME}-{entry.name}.1"] = _command_page(entry.name, entry.summary, entry.load())
    return found


def _command_page(name: str, summary: str, command: click.Command) -> str:
    ctx = click.Context(command, info_name=f"{_NAME} {name}")
    lines = [*_header(f"{_NAME}-{name}", 1, summary), ".SH SYNOPSIS", _synopsis(command, ctx)]
    lines += [".SH DESCRIPTION", *_text(command.help or "")]
    options = list(_options(command, ctx))
    if options:
        lines += [".SH OPTIONS", *options]
    lines += [*_examples(command.epilog or ""), ".SH SEE ALSO", f".BR {_NAME} (1)"]
    return "\n".join(lines) + "\n"


def _overview() -> str:
    ctx = click.Context(cli, info_name=_NAME)
    lines = [*_header(_NAME, 1, "guest RAM as files that outlive the VMM, the daemon and the kernel")]
    lines += [".SH SYNOPSIS", f".B {_NAME}", '.RI [ OPTIONS ] " COMMAND " [ ARGS ]...']
    lines += [".SH DESCRIPTION", *_text(cli.help or ""), ".SH OPTIONS", *_options(cli, ctx), ".SH COMMANDS"]
    for entry in ENTRIES:
        lines += [".TP", f".BR {_NAME}\\-{_escape(entry.name)} (1)", _escape(entry.summary)]
    lines += [".SH EXIT STATUS"]
    for code, text in re.findall(r"^  (\d+)  (.*)$", EXIT_CODES, re.MULTILINE):
        lines += [".TP", f".B {code}", _escape(text)]
    lines += [".SH FILES"]
    for path, text in (
        ("/run/guestmemfs/NAME", "state of an instance, unless --state-dir says otherwise"),
        (f"{DIRECTORY}/NAME.toml", "configuration of the unit guestmemfs@NAME.service"),
    ):
        lines += [".TP", f".I {_escape(path)}", _escape(text)]
    lines += [".SH ENVIRONMENT"]
    for variable, text in (
        ("GUESTMEMFS_RUN_DIR", "where instances are registered instead of /run/guestmemfs"),
        ("GUESTMEMFS_DEBUG", "set to 1: show tracebacks"),
    ):
        lines += [".TP", f".B {variable}", _escape(text)]
    lines += [".SH SEE ALSO", ".BR mount.guestmemfs (8)"]
    return "\n".join(lines) + "\n"


def _helper() -> str:
    lines = _header("mount.guestmemfs", 8, "mount guest memory with mount(8) and fstab")
    lines += [".SH SYNOPSIS", ".B mount \\-t guestmemfs", '.IR NAME " " DIR', ".RB [ \\-o", ".IR OPTIONS ]"]
    lines += [".SH DESCRIPTION"]
    lines += _text(
        "Mounts instance NAME on DIR, making it on first use, as guestmemfs-mount(1) does. Unknown options "
        "are refused by name (with mount -s they are passed over). A remount may change size: that resizes "
        "the region under its guests. Returns when the mount serves requests, or fails within 10 seconds "
        "with the reason."
    )
    lines += [".SH OPTIONS"]
    for option, text in (
        ("size=SIZE", "size of the region, with suffix K, M, G or T; needed on first use"),
        ("region=KIND", "tmpfs (default), memfd, hugetlb or dax"),
        ("page-size=2M|1G", "block size"),
        ("dax-dir=DIR", "directory on an fsdax filesystem, for region=dax"),
        ("numa-node=N", "take memory of this node only"),
        ("state-dir=DIR", "where the instance's state is kept"),
        ("huge=prefer|require", "what to do about memory without huge pages"),
        ("reserve", "grow the pool of huge pages as needed, for region=hugetlb"),
    ):
        lines += [".TP", f".B {_escape(option)}", _escape(text)]
    passed = ", ".join(sorted(FOR_OTHERS | ANYWAY))
    lines += [".PP", _escape(f"Accepted without effect here: {passed}, and everything that begins with x-.")]
    lines += [".PP", "Refused:"]
    for option, text in IMPOSSIBLE.items():
        lines += [".TP", f".B {_escape(option)}", _escape(text)]
    lines += [".SH EXAMPLES", ".nf", "mount \\-t guestmemfs vm1 /srv/guests \\-o size=4G"]
    lines += ["# /etc/fstab", "vm1  /srv/guests  guestmemfs  size=4G,nofail  0  0", ".fi"]
    lines += [".SH EXIT STATUS", "As mount(8): 0, 1 (usage), 2 (this host lacks something), 32 (failed)."]
    lines += [".SH SEE ALSO", ".BR guestmemfs (1),", ".BR guestmemfs\\-mount (1),", ".BR mount (8)"]
    return "\n".join(lines) + "\n"


# -- troff -----------------------------------------------------------------------------------------------


def _header(name: str, section: int, summary: str) -> list[str]:
    title = f'.TH "{name.upper()}" "{section}" "" "guestmemfs-fuse {__version__}" "guestmemfs-fuse"'
    return [title, ".SH NAME", f"{_escape(name)} \\- {_escape(summary.rstrip('.'))}"]


def _synopsis(command: click.Command, ctx: click.Context) -> str:
    words = " ".join(command.collect_usage_pieces(ctx))
    return f".B {_escape(ctx.info_name or '')}\n.I {_escape(words)}"


def _options(command: click.Command, ctx: click.Context) -> Iterator[str]:
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if isinstance(parameter, click.Option) and record is not None:
            names, text = record
            yield from (".TP", f".B {_escape(names)}", _escape(text))


def _text(text: str) -> list[str]:
    r"""Paragraphs of a help text; one that begins with \b is set as it stands."""
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        if paragraph.startswith("\b"):
            lines += [".PP", ".nf", *map(_escape, paragraph[1:].strip("\n").split("\n")), ".fi"]
        else:
            lines += [".PP", *map(_escape, paragraph.split("\n"))]
    return lines[1:] if lines[:1] == [".PP"] else lines


def _examples(epilog: str) -> list[str]:
    match = re.search(r"Examples:\n(.*)", epilog, re.DOTALL)
    if match is None:
        return []
    return [".SH EXAMPLES", ".nf", *(_escape(line.strip()) for line in match[1].rstrip().split("\n")), ".fi"]


def _escape(text: str) -> str:
    """Plain text as troff shows it: backslashes, hyphens that are hyphens, and no accidental requests."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    return "\\&" + escaped if escaped.startswith((".", "'")) else escaped


def main(argv: list[str]) -> int:
    """Write all pages into a directory."""
    os.makedirs(argv[1], exist_ok=True)
    for name, text in pages().items():
        with open(os.path.join(argv[1], name), "w", encoding="utf-8") as file:
            file.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
