"""Measures Fermata beside podman and gVisor on this machine, in one run, and writes the table in docs/benchmarks.md.

Each measurement warms up first: memory that the machine has not touched yet, cold caches and first starts are not what
is compared. JSON with every sample goes to bench/out/.
"""

import argparse
import contextlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import memory
import ports
import report
from clock import milliseconds, summary
from contender import WRITE_500_MB, WRITE_50000_FILES, Contender, Unavailable
from ours import BINARY, RELEASE, REPOSITORY, Fermata
from podman import Podman
from runsc import Runsc


@dataclass(frozen=True)
class Counts:
    quick: int
    held: int
    memory: int
    forks: int
    crowd: int


OURS = Counts(quick=60, held=7, memory=15, forks=20, crowd=100)
PEERS = Counts(quick=20, held=2, memory=7, forks=20, crowd=100)
TRIAL = Counts(quick=4, held=1, memory=2, forks=3, crowd=5)

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
        time.sleep(4)  # whatever it does once, it has done: an idle one is at rest
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
    except subprocess.SubprocessError as error:
        # Only peers are driven through programs.
        result = {"unavailable": f"{label}: {memory.reason(error)}"}
    print(result.get("unavailable", f"{time.monotonic() - began:.0f} s"), file=sys.stderr)
    return result


def measure_all(system: Contender, counts: Counts, wanted: set[str] | None) -> dict:
    print(f"{system.name} {system.version}", file=sys.stderr)
    work: dict[str, tuple[str, Callable[[], dict]]] = {
        "create": ("create and first exec", lambda: create_and_execute(system, counts.quick)),
        "execute": ("exec", lambda: execute(system, counts.quick * 2)),
        "hold_500_mb": ("snapshot after 500 MB", lambda: hold_after(system, WRITE_500_MB, counts.held)),
        "hold_50000_files": ("snapshot after 50,000 files", lambda: hold_after(system, WRITE_50000_FILES, counts.held)),
        "create_from_held": ("create from a snapshot", lambda: create_from_held(system, counts.quick // 2)),
        "hold_memory": ("memory snapshot", lambda: memory.hold(system, counts.memory)),
        "restore": ("restore of a web server", lambda: memory.restore(system, counts.memory)),
        "fork": (f"{counts.forks} forks of a web server", lambda: memory.fork(system, counts.forks)),
        "restore_shell": ("restore of a shell", lambda: memory.restore_shell(system, counts.quick // 2)),
        "idle": ("idle memory", lambda: idle_memory(system)),
        "many": (f"{counts.crowd} alive at once", lambda: many(system, counts.crowd)),
    }
    if isinstance(system, Fermata):
        work["ports"] = ("exposed port", lambda: ports.measure(system))
    measured = {name: measure(*part) for name, part in work.items() if wanted is None or name in wanted}
    return {"version": system.version, **measured}


def main() -> None:
    # So that a run that is ended leaves no sandbox behind either.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data-dir", type=Path, default=Path("/var/lib/fermata-bench"))
    options.add_argument("--runsc", type=Path, help="the runsc program")
    options.add_argument("--trial", action="store_true", help="few rounds, to see that it works; writes no table")
    options.add_argument("--only", help="measure only this system; writes no table")
    options.add_argument(
        "--measure", help="measure only these, by their names in the JSON, with commas; writes no table"
    )
    arguments = options.parse_args()
    wanted = set(arguments.measure.split(",")) if arguments.measure else None
    whole = not arguments.trial and arguments.only is None and wanted is None and BINARY == RELEASE

    ours_counts, peers_counts = (TRIAL, TRIAL) if arguments.trial else (OURS, PEERS)
    results: dict = {
        "machine": report.machine(),
        "crowd_seconds": CROWD_SECONDS,
        "crowd": ours_counts.crowd,
        "forks": ours_counts.forks,
        "systems": {},
    }
    work = Path(tempfile.mkdtemp(prefix="bench-", dir="/var/tmp"))
    root = work / "root.tar"
    try:
        with contextlib.closing(Fermata(arguments.data_dir)) as ours:
            results["build"] = ours.build
            results["trial"] = None if whole else f"{ours.build} build, {'few' if arguments.trial else 'all'} rounds"
            ours.export_root(root)
            if arguments.only in (None, "fermata"):
                results["systems"]["fermata"] = measure_all(ours, ours_counts, wanted)
            criu = ours.criu()
        peers: list[tuple[str, Callable[[], Contender]]] = [
            ("podman", lambda: Podman(work, root, criu)),
            ("runsc", lambda: Runsc(work, root, arguments.runsc)),
        ]
        for name, make in peers:
            if arguments.only not in (None, name):
                continue
            try:
                with contextlib.closing(make()) as peer:
                    results["systems"][name] = measure_all(peer, peers_counts, wanted)
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
    if whole:
        report.write(REPOSITORY / "docs/benchmarks.md", results, table)
    else:
        print(f"NOT A MEASUREMENT TO QUOTE: {results['trial']}. docs/benchmarks.md is as it was.")
    print(table)


if __name__ == "__main__":
    main()
