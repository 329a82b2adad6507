"""A journal that only grows: its length and last line are known in memory, and every line is what was written."""

import zlib

from guest import check, goes_on, is_ready, right


def line(number: int) -> bytes:
    return b"%d %08x\n" % (number, zlib.crc32(b"%d" % number))


count = length = 0
with open("/journal", "ab", buffering=0) as journal:
    is_ready()
    while goes_on():
        length += journal.write(line(count))
        count += 1
        check(journal.tell() == length, "the position is not of this instant")
with open("/journal", "rb") as journal:
    for number, text in enumerate(journal):
        check(text == line(number), "line", number, text)
        count -= 1
check(count == 0, "lines are missing:", count)
right()
