"""The benchmark suite: ours beside the alternatives, interleaved, in one run.

Behind `guestmemfs bench`, `make bench` and `make bench-full`. Drives the public command line and the
mounts it makes, in a private run directory; nothing of it runs in a daemon.
"""
