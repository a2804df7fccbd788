"""Run one fuzz target under atheris: `python -m tests.fuzz.run TARGET SECONDS [libFuzzer options]`.

Ends with status 0 when nothing was found. What is found is kept in .cache/fuzz/TARGET/crash-*, and is tried
first the next time; so is everything that reached new code (the corpus).
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["guestmemfs_fuse"]):
    from tests.fuzz.seeds import seeds
    from tests.fuzz.targets import TARGETS

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "fuzz"
MAX_BYTES = 16 << 10
INPUT_TIMEOUT_S = 20


def main() -> None:
    name, seconds, *options = sys.argv[1:]
    corpus = CACHE / name / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in seeds(name):
        (corpus / hashlib.sha1(seed).hexdigest()).write_bytes(seed)
    arguments = [
        sys.argv[0],
        f"-max_total_time={seconds}",
        f"-max_len={MAX_BYTES}",
        f"-timeout={INPUT_TIMEOUT_S}",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
        "-close_fd_mask=1",
        f"-artifact_prefix={CACHE / name}/",
        *options,
        str(corpus),
    ]
    atheris.Setup(arguments, TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
