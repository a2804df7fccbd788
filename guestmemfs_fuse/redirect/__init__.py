"""`guestmemfs run`: a ptrace tracer that gives programs the mappings the kernel cannot give through FUSE.

launch starts the command with a tracer beside it; tracer follows its threads and children from stop to stop;
rewriter decides which system calls are changed and into what; inject makes a stopped thread run other calls
than it asked for; layout says, purely, which mappings of which file a request becomes; resolve finds out
whose file a descriptor is. Imported by the `run` command only, never by the daemon.
"""
