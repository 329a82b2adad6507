"""An event loop with TCP and unix connections to itself, timers and a subprocess."""

import asyncio
import sys

from guest import check, goes_on, is_ready, right


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line[:-1][::-1] + b"\n")
        await writer.drain()
    writer.close()


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str) -> int:
    count = 0
    while goes_on():
        text = f"{name}-{count}"
        writer.write(text.encode() + b"\n")
        said = await asyncio.wait_for(reader.readline(), 30)
        check(said == text[::-1].encode() + b"\n", "asked", text, "heard", said)
        count += 1
    writer.close()
    return count


async def tick() -> int:
    ticks = 0
    while goes_on():
        before = asyncio.get_running_loop().time()
        await asyncio.sleep(0.002)
        check(asyncio.get_running_loop().time() >= before, "the clock of the loop ran backwards")
        ticks += 1
    return ticks


async def main() -> None:
    await asyncio.start_server(answer, "127.0.0.1", 9001)
    await asyncio.start_unix_server(answer, "/tmp/socket")
    await asyncio.start_unix_server(answer, "\0abstract")
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-uc",
        "import sys\nfor line in sys.stdin: print(line.strip()[::-1])",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdin and child.stdout
    tasks = [asyncio.create_task(ask(child.stdout, child.stdin, "child"))]
    for number in range(5):
        tasks.append(asyncio.create_task(ask(*await asyncio.open_connection("127.0.0.1", 9001), f"tcp{number}")))
    for path in ("/tmp/socket", "\0abstract"):
        tasks.append(asyncio.create_task(ask(*await asyncio.open_unix_connection(path), "unix")))
    tasks.append(asyncio.create_task(tick()))
    is_ready()
    counts = await asyncio.gather(*tasks)
    check(all(counts), "somebody got no turn", counts)
    check(await child.wait() == 0, "the child ended with an error")


asyncio.run(main())
right()
