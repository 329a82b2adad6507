"""The client's asyncio face."""

import asyncio


def test_async_calls(sandbox):
    async def program() -> None:
        process = await sandbox.aio.process.exec("sh", "-c", "echo a; echo b")
        assert await process.wait() == 0
        assert await process.stdout.read() == "a\nb\n"
        answers = await asyncio.gather(*(sandbox.aio.process.run_code(f"print({n})") for n in range(8)))
        assert [answer.result for answer in answers] == [f"{n}\n" for n in range(8)]
        await sandbox.aio.fs.write_text("/tmp/a", "text")
        assert await sandbox.aio.fs.read_text("/tmp/a") == "text"
        assert await sandbox.aio.terminate()

    asyncio.run(program())
