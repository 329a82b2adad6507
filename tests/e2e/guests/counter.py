"""One count in memory and in a file: they are equal at every instant but between two neighbouring lines."""

import os

from guest import check, goes_on, is_ready, right

file = os.open("/count", os.O_RDWR | os.O_CREAT, 0o644)
count = 0
os.pwrite(file, b"%020d" % count, 0)
is_ready()
while goes_on():
    check(int(os.pread(file, 20, 0)) == count, "the file is not of this instant", count)
    count += 1
    os.pwrite(file, b"%020d" % count, 0)
right()
