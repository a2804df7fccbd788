"""The session's phases: only the table's transitions, and everybody who waits hears of them."""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from guestmemfs_fuse.core.errors import DaemonError
from guestmemfs_fuse.fuse.phase import Ended, Lifecycle, Phase

LEGAL = [
    [Phase.STARTING, Phase.SERVING, Phase.DRAINED, Phase.SERVING, Phase.ENDED],
    [Phase.RESUMING, Phase.SERVING, Phase.ENDED],
    [Phase.STARTING, Phase.ENDED],
    [Phase.ENDED],
]
REACHED_BY = {
    Phase.NEW: [],
    Phase.STARTING: [Phase.STARTING],
    Phase.RESUMING: [Phase.RESUMING],
    Phase.SERVING: [Phase.STARTING, Phase.SERVING],
    Phase.DRAINED: [Phase.STARTING, Phase.SERVING, Phase.DRAINED],
    Phase.ENDED: [Phase.ENDED],
}


def steps() -> set[tuple[Phase, Phase]]:
    return {step for path in LEGAL for step in pairwise([Phase.NEW, *path])} | {
        (Phase.RESUMING, Phase.ENDED),
        (Phase.DRAINED, Phase.ENDED),
    }


@pytest.mark.parametrize("path", LEGAL)
def test_a_legal_life(path: list[Phase]) -> None:
    heard: list[Phase] = []
    life = Lifecycle(lambda: heard.append(life.phase))
    for phase in path:
        life.go(phase)
    assert heard == path


@pytest.mark.parametrize("here", list(Phase))
@pytest.mark.parametrize("there", list(Phase))
def test_no_other_step_is_taken(here: Phase, there: Phase) -> None:
    life = Lifecycle(lambda: None)
    for phase in REACHED_BY[here]:
        life.go(phase)
    if (here, there) in steps():
        life.go(there)
        assert life.phase is there
    else:
        with pytest.raises(DaemonError, match=f"{here.name} cannot become {there.name}"):
            life.go(there)
        assert life.phase is here


def test_the_first_reason_to_end_stays() -> None:
    life = Lifecycle(lambda: None)
    life.end(Ended.ABORTED)
    life.end(Ended.UNMOUNTED)
    assert life.ended is Ended.ABORTED
    assert life.phase is Phase.ENDED


def test_whoever_waits_hears_of_serving_and_of_the_end() -> None:
    async def main() -> None:
        life = Lifecycle(lambda: None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(life.until_serving)
            ended: list[Ended] = []

            async def wait() -> None:
                ended.append(await life.until_ended())

            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            life.go(Phase.STARTING)
            life.go(Phase.SERVING)
            await wait_all_tasks_blocked()
            assert not ended
            life.end(Ended.UNMOUNTED)
        assert ended == [Ended.UNMOUNTED]
        with pytest.raises(DaemonError, match="unmounted"):
            await life.until_serving()

    trio.run(main)
