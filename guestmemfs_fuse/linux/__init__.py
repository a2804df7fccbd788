"""The kernel's door: the only room that uses ctypes, raw ioctls and /proc.

Small modules, each with one noun, so that the daemon imports only what it needs (`mount`, `memory`,
`mountinfo`, `users`). Everything here raises plain OSError with the call's name in it; callers turn that
into an error with a hint. Imports nothing of ours but `core.errors`.
"""
