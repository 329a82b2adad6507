"""Measures Fermata beside podman and gVisor on this machine, in one run, and writes the table in docs/benchmarks.md.

Each measurement warms up first: memory that the machine has not touched yet, cold caches and first starts are not what
is compared. JSON with every sample goes to bench/out/.
"""

import argparse
import contextlib
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import ports
import report
from clock import milliseconds, summary
from contender import WRITE_500_MB, WRITE_50000_FILES, Contender, Unavailable
from ours import REPOSITORY, Fermata
from podman import Podman
from runsc import Runsc

QUICK, SLOW = 60, 20

# A system whose idle sandboxes keep the processor busy slows down with each one more: enough is known after this long.
CROWD_SECONDS = 60


@contextlib.contextmanager
def sandbox(system: Contender, image: str | None = None) -> Iterator[str]:
    name = system.create(image)
    try:
        yield name
    finally:
        system.end(name)


def create_and_execute(system: Contender, count: int, image: str | None = None) -> dict:
    """From the request to the answer of the first command, sandbox by sandbox."""
    samples = []
    system.prepare(image)
    for number in range(count + 3):
        made: list[str] = []

        def work(made: list[str] = made) -> None:
            made.append(system.create(image))
            system.execute(made[0], ["true"])

        taken = milliseconds(work)
        system.end(made[0])
        if number >= 3:
            samples.append(taken)
    return summary(samples)


def execute(system: Contender, count: int) -> dict:
    with sandbox(system) as name:
        for _ in range(5):
            system.execute(name, ["true"])
        return summary([milliseconds(lambda: system.execute(name, ["true"])) for _ in range(count)])


def hold_after(system: Contender, write: list[str], count: int) -> dict:
    """Everything is written anew before each snapshot."""
    system.require_snapshots()
    totals, pauses = [], []
    with sandbox(system) as name:
        for number in range(count + 1):
            system.execute(name, write)
            image, total, paused = system.hold(name)
            system.forget(image)
            if number > 0:
                totals.append(total)
                pauses.append(paused)
    result: dict = {"total_ms": summary(totals)}
    if None not in pauses:
        result["paused_ms"] = summary(pauses)
    return result


def create_from_held(system: Contender, count: int) -> dict:
    """From an image with 500 MB of changes."""
    system.require_snapshots()
    with sandbox(system) as name:
        system.execute(name, WRITE_500_MB)
        image, *_ = system.hold(name)
    try:
        return create_and_execute(system, count, image)
    finally:
        system.forget(image)


def idle_memory(system: Contender) -> dict:
    with sandbox(system) as name:
        system.execute(name, ["true"])
        time.sleep(1)  # whatever it does once, it has done
        return {"kib": system.idle_kib(name)}


def many(system: Contender, count: int) -> dict:
    """One after another, then all alive: every one of them answers at the end."""
    made: list[str] = []
    samples = []
    try:
        deadline = time.monotonic() + CROWD_SECONDS
        while len(made) < count and time.monotonic() < deadline:
            began = time.perf_counter()
            made.append(system.create())
            system.execute(made[-1], ["true"])
            samples.append((time.perf_counter() - began) * 1000)
        for name in made:
            system.execute(name, ["true"])
        kib = system.idle_kib(made[0])
    finally:
        for name in made:
            system.end(name)
    return {"first_ten": summary(samples[:10]), "last_ten": summary(samples[-10:]), "n": len(made), "idle_kib": kib}


def measure(label: str, work: Callable[[], dict]) -> dict:
    print(f"  {label} ...", end=" ", flush=True, file=sys.stderr)
    began = time.monotonic()
    try:
        result = work()
    except Unavailable as reason:
        result = {"unavailable": str(reason)}
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    return result


def measure_all(system: Contender, quick: int, held: int, crowd: int) -> dict:
    print(f"{system.name} {system.version}", file=sys.stderr)
    return {
        "version": system.version,
        "create": measure("create and first exec", lambda: create_and_execute(system, quick)),
        "execute": measure("exec", lambda: execute(system, quick * 2)),
        "hold_500_mb": measure("snapshot after 500 MB", lambda: hold_after(system, WRITE_500_MB, held)),
        "hold_50000_files": measure("snapshot after 50,000 files", lambda: hold_after(system, WRITE_50000_FILES, held)),
        "create_from_held": measure("create from a snapshot", lambda: create_from_held(system, quick // 2)),
        "idle": measure("idle memory", lambda: idle_memory(system)),
        "many": measure(f"{crowd} alive at once", lambda: many(system, crowd)),
    }


def main() -> None:
    # So that a run that is ended leaves no sandbox behind either.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data-dir", type=Path, default=Path("/var/lib/fermata-bench"))
    options.add_argument("--runsc", type=Path, help="the runsc program")
    options.add_argument("--only", help="measure only this system, or only the exposed `ports`, and write no table")
    arguments = options.parse_args()

    results: dict = {"machine": report.machine(), "crowd_seconds": CROWD_SECONDS, "systems": {}}
    work = Path(tempfile.mkdtemp(prefix="bench-", dir="/var/tmp"))
    root = work / "root.tar"
    try:
        with contextlib.closing(Fermata(arguments.data_dir)) as ours:
            ours.export_root(root)
            if arguments.only in (None, "fermata"):
                results["systems"]["fermata"] = measure_all(ours, QUICK, 7, 100)
            if arguments.only in (None, "fermata", "ports"):
                exposed = measure("exposed port", lambda: ports.measure(ours))
                results["systems"].setdefault("fermata", {"version": ours.version})["ports"] = exposed
        peers: list[tuple[str, Callable[[], Contender], int, int]] = [
            ("podman", lambda: Podman(work, root), SLOW, 2),
            ("runsc", lambda: Runsc(work, root, arguments.runsc), SLOW, 2),
        ]
        for name, make, quick, held in peers:
            if arguments.only not in (None, name):
                continue
            try:
                with contextlib.closing(make()) as peer:
                    results["systems"][name] = measure_all(peer, quick, held, 100)
            except Unavailable as reason:
                print(f"{name}: n/a: {reason}", file=sys.stderr)
                results["systems"][name] = {"unavailable": str(reason)}
    finally:
        shutil.rmtree(work, ignore_errors=True)

    out = REPOSITORY / "bench/out"
    out.mkdir(exist_ok=True)
    file = out / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    file.write_text(json.dumps(results, indent=2))
    table = report.table(results)
    if arguments.only is None:
        report.write(REPOSITORY / "docs/benchmarks.md", results, table)
    print(table)


if __name__ == "__main__":
    main()
