"""Writes to all of its memory as fast as it can, in patterns that show when pages are of different instants."""

import sys

from guest import check, goes_on, is_ready, right

PAGE = 4096
memory = bytearray(int(sys.argv[1]) << 20)
pages = len(memory) // PAGE
turn = 0
# The first byte of each page, in one go: slices are C loops.
memory[::PAGE] = bytes(pages)
is_ready()
while goes_on():
    turn = (turn + 1) % 256
    memory[::PAGE] = bytes([turn]) * pages
    check(memory[::PAGE].count(turn) == pages, "pages are of different instants")
    memory[PAGE - 1 :: PAGE] = memory[::PAGE]
    check(memory[PAGE - 1 :: PAGE] == memory[::PAGE], "a write was lost")
right()
