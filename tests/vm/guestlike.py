"""Stands for a guest: maps a file of the mount, goes on storing into it, and uses its open file and its path.

    guestlike.py FILE NOTES

Writes one line of JSON to NOTES a few times a second: how often it has stored, the longest time between two
stores and the longest that the calls on the open file and the path took (seconds), and every error. Stores
and calls are in two threads, as a guest's CPUs and its VMM are.
"""

import json
import mmap
import os
import sys
import threading
import time

path, notes_path = sys.argv[1:]
SIZE = 16 << 20

fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
os.ftruncate(fd, SIZE)
memory = mmap.mmap(fd, SIZE)
for start in range(0, SIZE, 1 << 20):
    memory[start : start + 8] = start.to_bytes(8, "little")

notes = {
    "pid": os.getpid(),
    "stores": 0,
    "calls": 0,
    "longest_store_s": 0.0,
    "longest_call_s": 0.0,
    "errors": [],
}


def call_forever() -> None:
    while True:
        began = time.monotonic()
        # Calls that the kernel cannot answer from what it has cached.
        for what, ask in (
            ("fstatvfs", lambda: os.fstatvfs(fd)),
            ("open", lambda: os.close(os.open(path, 0))),
        ):
            try:
                ask()
            except OSError as error:
                line = f"{what}: {error.strerror}"
                if line not in notes["errors"]:
                    notes["errors"].append(line)
        notes["longest_call_s"] = max(notes["longest_call_s"], time.monotonic() - began)
        notes["calls"] += 1
        time.sleep(0.05)


threading.Thread(target=call_forever, daemon=True).start()
last = time.monotonic()
while True:
    notes["stores"] += 1
    memory[8:16] = notes["stores"].to_bytes(8, "little")
    wrong = [at for at in range(1 << 20, SIZE, 1 << 20) if memory[at : at + 8] != at.to_bytes(8, "little")]
    if wrong:
        notes["errors"].append(f"{len(wrong)} wrong bytes")
    now = time.monotonic()
    notes["longest_store_s"] = max(notes["longest_store_s"], now - last)
    last = now
    with open(notes_path + ".new", "w") as file:
        json.dump(notes, file)
    os.rename(notes_path + ".new", notes_path)
    time.sleep(0.1)
