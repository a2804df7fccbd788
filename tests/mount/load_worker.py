"""A process that changes a directory at random and knows exactly what must be there: half of a crash test.

Run as `python -m tests.mount.load_worker DIRECTORY SEED`. Works until a line comes on stdin:

    verify      compare everything with what was acknowledged; answers one JSON line, then goes on
    pause       the same, then waits for another line
    stop        the same, then ends

Every call is made once, and its answer is taken at its word: an answer nobody expected (EEXIST for a name of
our own, EIO, ENOENT) is an error. When the mount goes away (ENOTCONN, after both holder and daemon were
killed) the call in flight is remembered as open, the line {"disconnected": ...} is said, and the next line on
stdin means that the mount is back: then that call was done wholly or not at all.

Owns DIRECTORY. Called by load_crew.
"""

from __future__ import annotations

import json
import select
import sys
import traceback

from tests.mount.load_acts import Worker, read_order
from tests.mount.load_model import problems


def main() -> int:
    worker = Worker(sys.argv[1], int(sys.argv[2]))
    print(json.dumps({"ready": True}), flush=True)
    line = ""
    while line != "stop\n":
        readable, _, _ = select.select([0], [], [], 0)
        if not readable:
            worker.step()
            continue
        line = read_order()
        worker.check_mapping()
        print(
            json.dumps({"done": worker.done, "problems": problems(worker.directory, worker.model)}),
            flush=True,
        )
        if line == "pause\n":
            read_order()
    return 0


if __name__ == "__main__":
    try:
        status = main()
    except Exception:
        print(json.dumps({"error": traceback.format_exc()}), flush=True)
        status = 1
    sys.exit(status)
