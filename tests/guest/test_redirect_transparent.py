"""`guestmemfs run` goes unnoticed: exit status, signals, job control, descriptors, a dying tracer."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from guestmemfs_fuse.linux.process import is_alive
from tests.zoo.rig import PAGE_BYTES, Build, FakeMount

pytest_plugins = ("tests.zoo.fixtures",)

SOON_S = 10.0
POLL_S = 0.01


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {SOON_S:g} s: {what}"
        time.sleep(POLL_S)


def status_field(pid: int, name: str) -> str:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return line.split(":", 1)[1].strip()
    raise AssertionError(f"no {name} in /proc/{pid}/status")


def tracer_of(pid: int) -> int:
    return int(status_field(pid, "TracerPid"))


@contextmanager
def started(
    region: FakeMount, *command: object, options: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen[str]]:
    """A command that is running and has said so; killed at the end if it still is."""
    child = region.start(*command, options=options)
    try:
        assert child.stdout is not None
        for line in child.stdout:
            if line == "ready\n":
                break
        else:
            raise AssertionError(f"never ready: {child.communicate()[1]}")
        yield child
    finally:
        child.kill()
        child.communicate()


# -- status and signals -----------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 1, 7, 255])
def test_the_exit_status_is_the_programs(region: FakeMount, zoo: Build, status: int) -> None:
    done = region.run(zoo("signals"), "exit", status)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGTRAP])
def test_death_by_a_signal_is_the_programs(region: FakeMount, zoo: Build, number: signal.Signals) -> None:
    assert region.run(zoo("signals"), "kill", int(number)).returncode == -number


def test_a_missing_command_is_127_and_one_that_cannot_run_126(region: FakeMount, private_dir: Path) -> None:
    missing = region.run("no-such-program-anywhere")
    assert missing.returncode == 127
    assert missing.stderr == "guestmemfs run: no-such-program-anywhere: No such file or directory\n"
    plain = private_dir / "plain"
    plain.touch(mode=0o644)
    assert region.run(plain).returncode == 126


def test_a_script_without_an_interpreter_line_runs_as_the_shell_would(
    region: FakeMount, private_dir: Path
) -> None:
    script = private_dir / "script"
    script.write_text("echo $1 $0; exit 3\n")
    script.chmod(0o755)
    done = region.run(script, "works")
    assert (done.stdout, done.returncode) == (f"works {script}\n", 3)


def test_queued_signals_arrive_once_each_with_their_values(region: FakeMount, zoo: Build) -> None:
    with started(region, zoo("signals"), "count", 200) as child:
        for value in range(200):
            sigqueue(child.pid, signal.SIGRTMIN, value)
        assert child.stdout is not None
        assert child.stdout.read() == f"seen 200 sum {sum(range(200))}\n"
        assert child.wait(SOON_S) == 0


def sigqueue(pid: int, number: int, value: int) -> None:
    subprocess.run(["kill", f"-{number}", "-q", str(value), str(pid)], check=True)


def test_sigterm_reaches_the_programs_handler(region: FakeMount, zoo: Build) -> None:
    with started(region, zoo("signals"), "quiet") as child:
        child.terminate()
        assert child.stdout is not None
        assert child.stdout.read() == "term\n"
        assert child.wait(SOON_S) == 0


def awaited(pid: int, what: int) -> tuple[int, int]:
    """waitpid(2) for a change of state, which must come soon: a test that waits for ever says nothing."""
    seen: list[tuple[int, int]] = []

    def has_come() -> bool:
        found = os.waitpid(pid, what | os.WNOHANG)
        if found[0]:
            seen.append(found)
        return bool(seen)

    wait_for(has_come, "a change of state")
    return seen[0]


def test_stop_and_continue_are_seen_by_the_programs_parent(region: FakeMount, zoo: Build) -> None:
    with started(region, zoo("signals"), "quiet") as child:
        assert tracer_of(child.pid) != 0
        for number in (signal.SIGSTOP, signal.SIGTSTP):
            os.kill(child.pid, number)
            pid, status = awaited(child.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status) and os.WSTOPSIG(status) == number
            assert status_field(pid, "State")[0] in "tT"
            os.kill(child.pid, signal.SIGCONT)
            _, status = awaited(child.pid, os.WCONTINUED)
            assert os.WIFCONTINUED(status)
        child.terminate()
        assert child.stdout is not None
        assert child.stdout.read() == "term\n"


# -- what the program has ------------------------------------------------------------------------------


def test_the_program_has_the_launchers_pid_parent_and_group_and_no_strange_child(region: FakeMount) -> None:
    child = region.start(
        "sh", "-c", "read pid rest < /proc/self/stat; cat /proc/$$/stat /proc/$$/task/$$/children"
    )
    output = child.communicate(timeout=SOON_S)[0].split("\n")
    fields = output[0].rpartition(")")[2].split()
    assert output[0].split()[0] == str(child.pid)
    assert fields[1] == str(os.getpid())
    assert fields[2] == str(child.pid)  # the group that region.start made for it
    # the one child is the cat that prints the list
    assert len(output[1].split()) == 1


def test_the_program_has_its_descriptors_and_default_signal_actions(region: FakeMount) -> None:
    bare = "ls /proc/self/fd; grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status"
    reference = subprocess.run(["sh", "-c", bare], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert region.run("sh", "-c", bare).stdout == reference.stdout


def test_input_and_output_pass_through_and_nobody_holds_the_pipe(region: FakeMount) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{' '.join(region.command(['--keep'], 'tr', 'a-z', 'A-Z'))} | cat"],
        input="some input\n" * 1000,
        capture_output=True,
        text=True,
        timeout=SOON_S,
    )
    assert done.stdout == "SOME INPUT\n" * 1000


def test_a_program_that_is_traced_already_is_refused_in_one_line(region: FakeMount) -> None:
    inner = region.command([], "true")
    done = region.run(*inner)
    assert done.returncode != 0
    assert "cannot trace: Operation not permitted" in done.stderr


def test_job_control_in_an_interactive_shell(region: FakeMount, zoo: Build) -> None:
    command = " ".join(region.command(["--keep"], zoo("signals"), "quiet"))
    with terminal() as (send, expect, foreground):
        send("PS1='prompt''> '\n")
        expect("prompt> ")
        shell = foreground()
        send(command + "\n")
        expect("ready\r\n")
        send("\x1a")
        expect("Stopped")
        send("bg\n")
        expect("prompt> ")
        send("jobs\n")
        expect("Running")
        send("fg\n")
        # bash prints the command before it hands the terminal over
        wait_for(lambda: foreground() != shell, "the job in the foreground")
        send("\x03")
        expect("prompt> ")
        send("echo status $?\n")
        expect("status 130\r\n")


@contextmanager
def terminal() -> Iterator[tuple[Callable[[str], None], Callable[[str], None], Callable[[], int]]]:
    """An interactive bash on a terminal of its own.

    Gives three functions: send keys; read on until something is seen; the foreground process group.
    """
    pid, fd = pty.fork()
    if pid == 0:
        os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
    seen = ""

    def send(text: str) -> None:
        os.write(fd, text.encode())

    def expect(text: str) -> None:
        nonlocal seen
        deadline = time.monotonic() + SOON_S
        while text not in seen:
            ready, _, _ = select.select([fd], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"no {text!r} on the terminal, only {seen!r}"
            seen += os.read(fd, 4096).decode(errors="replace")
        seen = seen.partition(text)[2]

    try:
        yield send, expect, lambda: os.tcgetpgrp(fd)
    finally:
        os.kill(pid, signal.SIGHUP)
        os.close(fd)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


# -- leaving -------------------------------------------------------------------------------------------


def test_a_program_that_has_mapped_and_is_quiet_is_let_go_and_the_tracer_ends(
    region: FakeMount, zoo: Build
) -> None:
    file = region.file("ram", (3, 2))
    settle = ("--settle", "2")  # long enough to be seen traced, also on a busy host
    with started(region, zoo("mapper"), "wk", file, 0, 2 * PAGE_BYTES, options=settle) as child:
        tracer = tracer_of(child.pid)
        assert tracer != 0
        wait_for(lambda: tracer_of(child.pid) == 0, "let go")
        wait_for(lambda: not is_alive(tracer), "the tracer's end")
        # pause() was interrupted to let go, and goes on
        wait_for(lambda: status_field(child.pid, "State").startswith("S"), "asleep in pause() again")
        assert child.poll() is None


def test_keep_traces_on(region: FakeMount, zoo: Build) -> None:
    file = region.file("ram", (3, 2))
    options = ("--keep", "--settle", "0")
    with started(region, zoo("mapper"), "wk", file, 0, 2 * PAGE_BYTES, options=options) as child:
        again = tracer_of(child.pid)
        assert again != 0
        time.sleep(0.3)  # nothing happens, and nothing can be waited for
        assert tracer_of(child.pid) == again


def test_until_lets_everything_go_at_the_nth_mapping(region: FakeMount, zoo: Build) -> None:
    file = region.file("ram", (3, 2))
    mapper = f"{zoo('mapper')} {file} 0 1"
    script = f"{mapper}; {mapper}; {mapper}; echo ready; read line"
    region.files[str(file.stat().st_ino)]["kind"] = "hugetlb"
    child = region.start("sh", "-c", script, options=("--until", "2"))
    output, _ = child.communicate(timeout=SOON_S)
    # the third is not redirected any more, and the tmpfs behind it has no tags
    assert [line.split()[2] for line in output.splitlines()[:2]] == ["0", "0"]
    assert [line.split()[3:] for line in output.splitlines()[:3]] == [["page0003"], ["page0003"], []]


def test_the_shell_around_a_program_stays_traced_for_the_next_program(region: FakeMount, zoo: Build) -> None:
    file = region.file("ram", (3, 2))
    mapper = f"{zoo('mapper')} {file} 0 1"
    done = region.run("sh", "-c", f"{mapper}; sleep 0.3; {mapper}", options=("--settle", "0"))
    assert done.stdout.count("page0003") == 2, done.stdout + done.stderr


def test_a_killed_tracer_takes_nobody_with_it(region: FakeMount, zoo: Build) -> None:
    file = region.file("ram", (3, 2))
    with started(region, zoo("mapper"), "wk", file, 0, 2 * PAGE_BYTES, options=("--keep",)) as child:
        os.kill(tracer_of(child.pid), signal.SIGKILL)
        wait_for(lambda: tracer_of(child.pid) == 0, "free of the dead tracer")
        wait_for(lambda: status_field(child.pid, "State").startswith("S"), "asleep in pause() again")
        assert region.page(3) == b"page!wr!"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_tracer_does_not_die_of_signals_meant_for_the_program(
    region: FakeMount, zoo: Build, number: signal.Signals
) -> None:
    with started(region, zoo("signals"), "quiet") as child:
        tracer = tracer_of(child.pid)
        os.kill(tracer, number)
        child.terminate()
        assert child.wait(SOON_S) == 0
        wait_for(lambda: not is_alive(tracer), "the tracer's end")


def test_verbose_says_what_was_mapped_and_what_it_cost_before_the_program_is_gone(
    region: FakeMount, zoo: Build
) -> None:
    file = region.file("ram", (8, 2), (1, 1))
    done = region.run(zoo("mapper"), "wp", file, 0, 3 * PAGE_BYTES, options=["--verbose"])
    first, second = done.stderr.splitlines()
    assert first.startswith(f"guestmemfs run: {file}: {3 * PAGE_BYTES} bytes at 0x")
    assert first.endswith("in 2 pieces, shared instead of private")
    assert second.startswith("guestmemfs run: traced 1 processes for ")
    assert second.endswith(" stops, 1 mappings of guest memory")
