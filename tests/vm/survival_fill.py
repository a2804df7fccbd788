"""Random bytes into a file, through a mapping, as a guest's are: FILE."""

import mmap
import os
import sys

MIB = 1 << 20
SIZE = 6 * MIB

fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o640)
os.truncate(fd, SIZE)
memory = mmap.mmap(fd, SIZE)
for at in range(0, SIZE, MIB):
    memory[at : at + MIB] = os.urandom(MIB)
