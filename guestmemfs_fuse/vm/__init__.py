"""QEMU live update over QMP: device state to a file, RAM left where it is.

Runs in the CLI process only (asyncio); the daemon never imports it. `monitor` talks, `inspect` refuses
guests whose RAM would not survive, `save` and `restore` do the two halves, `record` is what lies between.
"""
