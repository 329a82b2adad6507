"""Sandboxes held with their processes and memory, and played on: a web server that holds 200 MB, and a waiting shell.

server ─ hold ─► held ─┬─ restore ─► GET: 200
                       └─ 20 restores ─► 20 × GET: 200
"""

import contextlib
import os
import subprocess
import time
import urllib.error
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any

from clock import milliseconds, summary
from contender import Contender, HeldMemory, Unavailable

PORT = 8000

# Random bytes: nothing shares or squeezes them, and every page is there.
SERVER = f"""
import http.server, os
held = os.urandom(200_000_000)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("0.0.0.0", {PORT}), Handler).serve_forever()
"""
SERVE = ["python3", "-c", SERVER]

# A shell that waits for a line which never comes.
WAITING_SHELL = ["sh", "-c", "mkfifo /wait; read line <>/wait"]

# Of one sandbox that was just started or restored.
PATIENCE_SECONDS = 60


def answers(ask: Callable[[], None]) -> None:
    """Returns with the first answer."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return ask()
        except (OSError, subprocess.CalledProcessError):
            # An HTTP error is one of the former.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)


@contextlib.contextmanager
def running(system: Contender, command: list[str], port: int | None = None) -> Iterator[str]:
    name = system.run(command, port)
    try:
        if port is not None:
            answers(system.asking(name, port))
        yield name
    finally:
        system.end(name)


@contextlib.contextmanager
def held(system: Contender, command: list[str], port: int | None = None) -> Iterator[HeldMemory]:
    with running(system, command, port) as name:
        if port is None:
            system.execute(name, ["sh", "-c", "until [ -p /wait ]; do sleep 0.1; done"])
        held = system.hold_memory(name)
    try:
        yield held
    finally:
        system.forget_memory(held)


def hold(system: Contender, count: int) -> dict:
    """The server runs on and answers after each."""
    totals, pauses, sizes = [], [], []
    with running(system, SERVE, PORT) as name:
        for number in range(count + 1):
            held = system.hold_memory(name)
            system.forget_memory(held)
            answers(system.asking(name, PORT))
            if number > 0:
                totals.append(held.total_ms)
                pauses.append(held.paused_ms)
                sizes.append(held.size_bytes)
    result: dict = {"total_ms": summary(totals), "size_bytes": max(sizes)}
    told = [paused for paused in pauses if paused is not None]
    if len(told) == len(pauses):
        result["paused_ms"] = summary(told)
    return result


def restore(system: Contender, count: int) -> dict:
    """Until the restored server has answered; finding out where it is, is not counted where it takes a call more."""
    samples = []
    with held(system, SERVE, PORT) as snapshot:
        for number in range(count + 1):
            taken = restore_and(system, snapshot, lambda name: system.asking(name, PORT))
            if number > 0:
                samples.append(taken)
    return summary(samples)


def restore_shell(system: Contender, count: int) -> dict:
    """Until the first command in the restored sandbox has ended."""
    samples = []
    with held(system, WAITING_SHELL) as snapshot:
        for number in range(count + 3):
            taken = restore_and(system, snapshot, lambda name: lambda: system.execute(name, ["true"]))
            if number >= 3:
                samples.append(taken)
    return summary(samples)


def restore_and(system: Contender, held: HeldMemory, asking: Callable[[str], Callable[[], None]]) -> float:
    names: list[str] = []
    try:
        taken = milliseconds(lambda: names.append(system.restore(held)))
        ask = asking(names[0])
        return taken + milliseconds(lambda: answers(ask))
    finally:
        for name in names:
            system.end(name)


def fork(system: Contender, count: int) -> dict:
    """Held once, then restored `count` times; all are alive and have answered at the end."""
    with running(system, SERVE, PORT) as source:
        began = time.perf_counter()
        snapshot = system.hold_memory(source)
        names: list[str] = []
        try:
            # Noted by each itself, so that they end with a run that is ended.
            restores = [lambda: names.append(system.restore(snapshot))] * count
            restored = at_once(system.restores_at_once or count, restores)
            taken_ms = (time.perf_counter() - began) * 1000
            failures = [reason(error) for child in restored if (error := child.exception())]
            asking = [system.asking(name, PORT) for name in names]
            began = time.perf_counter()
            answered = at_once(count, [partial(answers, ask) for ask in asking])
            taken_ms += (time.perf_counter() - began) * 1000
            failures.extend(reason(error) for child in answered if (error := child.exception()))
            # The source was never in the way.
            answers(system.asking(source, PORT))
        finally:
            for name in names:
                system.end(name)
            system.forget_memory(snapshot)
    result = {"n": count, "failed": len(failures), "reasons": sorted(set(failures))}
    if len(failures) == count:
        raise Unavailable(f"no fork of {count} answered: {failures[0]}")
    return {**result, "total_ms": taken_ms, "at_once": system.restores_at_once or count}


def at_once(most: int, calls: list[Callable[[], Any]]) -> list[Future]:
    """Makes all calls, so many at the same time, and returns when they have ended."""
    pool = ThreadPoolExecutor(most)
    try:
        ends = [pool.submit(call) for call in calls]
        wait(ends)
        return ends
    finally:
        # Of a run that is ended, what has not begun does not begin.
        pool.shutdown(cancel_futures=True)


def reason(error: BaseException) -> str:
    """Why something failed, in a line."""
    if isinstance(error, subprocess.CalledProcessError):
        words = (error.stderr or "").strip().splitlines()
        return words[-1] if words else f"{os.path.basename(error.cmd[0])} ended with {error.returncode}"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"{os.path.basename(error.cmd[0])} did not end in {error.timeout:.0f} s"
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code}"
    return f"{type(error).__name__}: {error}"
