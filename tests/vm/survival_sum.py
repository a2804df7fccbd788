"""The checksum of a file, read through a mapping: FILE."""

import hashlib
import mmap
import os
import sys

fd = os.open(sys.argv[1], os.O_RDWR)
print(hashlib.sha256(mmap.mmap(fd, os.fstat(fd).st_size)).hexdigest())
