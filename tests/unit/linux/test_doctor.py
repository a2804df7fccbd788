"""`guestmemfs doctor`: its JSON, its text and its exit code, over probes made up here."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from guestmemfs_fuse.cli import doctor as module
from guestmemfs_fuse.core.errors import ExitCode
from guestmemfs_fuse.linux.probe import Probe

LONG = "x" * 200


def probes(*failed: str) -> list[Probe]:
    names = (
        "privilege", "fuse-device", "fuse-passthrough", "tmpfs-huge", "tmpfs-noswap", "tmpfs-unlinked",
        "hugetlb-2M", "hugetlb-1G", "memory", "numa", "fsdax", "liveupdate", "kexec", "systemd",
        "ptrace", "kvm",
    )  # fmt: skip
    return [
        Probe(n, n not in failed, LONG, f"first {n}; then {LONG}" if n in failed else None) for n in names
    ]


def run(monkeypatch: pytest.MonkeyPatch, found: list[Probe], *args: str) -> tuple[int, str]:
    monkeypatch.setattr(module, "run_all", lambda: found)
    result = CliRunner().invoke(module.doctor, args)
    return result.exit_code, result.stdout


def test_json_keys_are_the_documented_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    code, text = run(monkeypatch, probes("fsdax"), "--json")
    found = json.loads(text)
    assert code == ExitCode.OK
    assert set(found) == {"kernel", "probes", "regions"}
    assert set(found["probes"][0]) == {"name", "ok", "detail", "fix"}
    assert set(found["regions"][0]) == {"kind", "works", "reason", "fix", "mmap"}
    by_kind = {row["kind"]: row for row in found["regions"]}
    assert by_kind["tmpfs"]["mmap"] == "passthrough"
    assert by_kind["dax"] == {
        "kind": "dax", "works": False, "reason": f"fsdax: {LONG}",
        "fix": f"first fsdax; then {LONG}", "mmap": None,
    }  # fmt: skip


def test_exit_code_follows_the_default_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, probes("hugetlb-2M", "hugetlb-1G", "fsdax", "kvm"))[0] == ExitCode.OK
    assert run(monkeypatch, probes("tmpfs-huge"))[0] == ExitCode.UNSUPPORTED
    assert run(monkeypatch, probes("tmpfs-huge"), "--json")[0] == ExitCode.UNSUPPORTED


def test_text_fits_one_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    _, text = run(monkeypatch, [*probes("fsdax", "liveupdate", "hugetlb-2M", "hugetlb-1G", "systemd")])
    lines = text.splitlines()
    assert len(lines) <= 40
    assert "no  fsdax" in text
    assert "hugetlb: first hugetlb-2M" in lines


def test_steps_of_a_fix_are_lines_and_shared_fixes_are_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = run(monkeypatch, probes("privilege"))[1].splitlines()
    assert "tmpfs, memfd, hugetlb, dax: first privilege" in lines
    assert sum("first privilege" in line for line in lines) == 1


def test_terminal_gets_a_table_of_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    found = [Probe(p.name, p.ok, LONG, "short") for p in probes("fsdax", "hugetlb-2M", "hugetlb-1G")]
    module._print_tables(found, module.judge(found))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("no") and "hugetlb" in line and "hugetlb-2M: xxx" in line for line in lines)
