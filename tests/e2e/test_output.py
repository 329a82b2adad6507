"""More output than is ever kept: who reads gets all of it, who does not holds nobody up."""

import pytest
from commands import written_bytes
from waiting import eventually

KEPT_BYTES = 32 * 1024 * 1024
"""Of each stream of a process that this client started."""

LAST = 8_000_000
"""`seq 1 LAST` is twice of what is kept."""


def numbers(last: int) -> str:
    return "".join(f"{number}\n" for number in range(1, last + 1))


@pytest.mark.parametrize("stream", ["stdout", "logs"])
def test_every_line_of_a_flood_is_seen_by_who_iterates(sandbox, stream):
    process = sandbox.process.exec("seq", "1", "3000000")
    number = 0
    for number, line in enumerate(getattr(process, stream), 1):  # noqa: B007 (its last value counts)
        assert line == f"{number}\n"
    assert number == 3_000_000
    assert process.wait(10) == 0


def test_a_program_waits_for_a_reader_that_is_behind(sandbox):
    process = sandbox.process.exec("seq", "1", str(LAST))
    text = eventually(process.stdout._fetch_next_chunk, "something is there to be read")
    eventually(
        lambda: written_bytes(sandbox, process.pid) >= KEPT_BYTES, "as much as can be kept is written", timeout=8
    )
    assert written_bytes(sandbox, process.pid) < KEPT_BYTES + len(text) + 1024 * 1024
    # A snapshot in the middle changes nothing.
    sandbox.create_image_from_filesystem()
    while process.status()[0] == -1:
        text += process.stdout.read()
    text += process.stdout.read()
    assert text == numbers(LAST)


def test_stderr_is_waited_for_as_well(sandbox):
    process = sandbox.process.exec("sh", "-c", f"seq 1 {LAST} >&2; echo out")
    text = ""
    while process.status()[0] == -1:
        text += process.stderr.read()
    text += process.stderr.read()
    assert text == numbers(LAST)
    assert process.stdout.read() == "out\n"


def test_a_reader_that_stops_in_the_middle_does_not_hold_the_program_for_ever(sandbox):
    process = sandbox.process.exec("seq", "1", str(LAST))
    first = eventually(process.stdout._fetch_next_chunk, "something is there to be read")
    assert first.startswith("1\n2\n")
    assert process.wait(30) == 0
    rest = process.stdout.read()
    assert rest.startswith("[fermata: ")
    assert "bytes of output were dropped" in rest[:100]
    assert rest.endswith(f"\n{LAST}\n")
    said = int(rest.split()[1])
    assert len(first) + said + len(rest) - len(rest.split("\n", 1)[0]) - 1 == len(numbers(LAST))


def test_gigabytes_of_output_are_bounded_and_say_so(sandbox):
    """Nobody reads while they are written: the process must not stall, memory must not grow, the loss must show."""
    script = "yes 0123456789abcde | head -c 2147483648; echo the end"
    process = sandbox.process.exec("sh", "-c", script)
    assert process.wait(180) == 0
    text = process.stdout.read()
    assert len(text) < 64 * 1024 * 1024
    assert text.endswith("the end\n")
    assert "dropped" in text[:1000] or "dropped" in text[-1000:], text[:200]
