"""From samples to the table in docs/benchmarks.md."""

import os
import platform
import time
from pathlib import Path
from typing import Any

SYSTEMS = ["fermata", "podman", "runsc"]


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def machine() -> dict[str, str]:
    cpu = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    release = dict(line.split("=", 1) for line in _lines("/etc/os-release") if "=" in line)
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": f"{os.cpu_count()} cores, {cpu}",
        "memory": f"{memory / (1 << 30):.0f} GiB",
        # Without what the builder of the kernel added.
        "kernel": platform.release().split("-")[0],
        "system": release["PRETTY_NAME"].strip('"'),
    }


def pick(result: dict[str, Any], *path: str) -> Any:
    """The value at a path, `None` where the system could not be measured."""
    for key in path:
        if not isinstance(result, dict) or "unavailable" in result or key not in result:
            return None
        result = result[key]
    return result


def ms(value: float | None) -> str:
    if value is None:
        return "n/a"
    if value >= 1000:
        return f"{value / 1000:.1f} s"
    if value < 1:
        return f"{value:.2f} ms"
    return f"{value:.1f} ms" if value < 100 else f"{value:.0f} ms"


def forks(system: dict[str, Any]) -> str:
    total = ms(pick(system, "fork", "total_ms"))
    failed = pick(system, "fork", "failed")
    return f"{total}, {failed} of {pick(system, 'fork', 'n')} failed" if failed else total


def size(value: float | None) -> str:
    return "n/a" if value is None else f"{value / 1e6:.0f} MB"


def mib(value: float | None) -> str:
    return "n/a" if value is None else f"{value / 1024:.1f} MiB"


def share(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.0%}"


def two(first: str, second: str) -> str:
    return "n/a" if (first, second) == ("n/a", "n/a") else f"{first} / {second}"


def rows(system: dict[str, Any], results: dict[str, Any]) -> list[tuple[str, str]]:
    def value(*path: str) -> str:
        return ms(pick(system, *path))

    return [
        ("create → first exec answered, p50 / p99", two(value("create", "p50"), value("create", "p99"))),
        ("exec of `true` in a running sandbox, p50", value("execute", "p50")),
        (
            "filesystem snapshot after writing 500 MB, total / pause, p50",
            two(value("hold_500_mb", "total_ms", "p50"), value("hold_500_mb", "paused_ms", "p50")),
        ),
        (
            "the same after writing 50,000 small files",
            two(value("hold_50000_files", "total_ms", "p50"), value("hold_50000_files", "paused_ms", "p50")),
        ),
        (
            "new sandbox from a snapshot with 500 MB → first exec answered, p50 / p99",
            two(value("create_from_held", "p50"), value("create_from_held", "p99")),
        ),
        (
            "memory snapshot of a web server that holds 200 MB, total / pause, p50",
            two(value("hold_memory", "total_ms", "p50"), value("hold_memory", "paused_ms", "p50")),
        ),
        ("its size", size(pick(system, "hold_memory", "size_bytes"))),
        ("restore of it → first HTTP 200, p50 / p99", two(value("restore", "p50"), value("restore", "p99"))),
        (f"{results['forks']} forks of it: memory snapshot, restores, all have answered", forks(system)),
        (
            "restore of a waiting shell → first exec answered, p50 / p99",
            two(value("restore_shell", "p50"), value("restore_shell", "p99")),
        ),
        ("memory of the keepers of one idle sandbox (PSS)", mib(pick(system, "idle", "kib"))),
        ("the same with many sandboxes alive", mib(pick(system, "many", "idle_kib"))),
        (
            "many sandboxes made one after another, all alive: first ten / last ten, p50",
            two(value("many", "first_ten", "p50"), value("many", "last_ten", "p50")),
        ),
        (
            f"how many: {results['crowd']}, or as many as {results['crowd_seconds']} s were enough for",
            str(pick(system, "many", "n") or "n/a"),
        ),
        (
            "exposed port: added to a round trip / to a new connection, p50",
            two(value("ports", "added_ms"), value("ports", "added_to_connect_ms")),
        ),
        (
            "the same: throughput of one connection, of direct loopback",
            share(pick(system, "ports", "throughput_share")),
        ),
    ]


def table(results: dict[str, Any]) -> str:
    systems = [name for name in SYSTEMS if name in results["systems"]]
    columns = [rows(results["systems"][name], results) for name in systems]
    lines = [f"| measure | {' | '.join(systems)} |", f"|---|{'---:|' * len(systems)}"]
    for cells in zip(*columns, strict=True):
        lines.append(f"| {cells[0][0]} | {' | '.join(text for _, text in cells)} |")
    return "\n".join(lines) + "\n"


def write(path: Path, results: dict[str, Any], text: str) -> None:
    facts = results["machine"]
    notes = []
    for name in SYSTEMS:
        system = results["systems"].get(name, {})
        if "unavailable" in system:
            notes.append(f"- {name}: n/a, {system['unavailable']}")
            continue
        notes.append(f"- {name} {system['version']}")
        reasons = {part["unavailable"] for part in system.values() if isinstance(part, dict) and "unavailable" in part}
        notes.extend(f"  - n/a: {reason}" for reason in sorted(reasons))
        notes.extend(f"  - failed fork: {reason}" for reason in pick(system, "fork", "reasons") or [])
    origin = (
        f"Made by `make bench` on {facts['date']}: {facts['processor']}, {facts['memory']}, Linux {facts['kernel']},\n"
        f"{facts['system']}. Fermata is a {results['build']} build."
    )

    def rounds(*part: str) -> str:
        return " / ".join(str(pick(results, "systems", name, *part, "n") or "n/a") for name in ("fermata", "podman"))

    path.write_text(
        f"""# Benchmarks

{origin}
All systems ran in the same run, one after another, from the same root filesystem (Fermata's base image).

{text}
{chr(10).join(notes)}

## What is measured

- Fermata is measured through the wire calls of the official Beam client (gRPC on loopback), podman and runsc through
  their command lines, as their users do. A first exec is answered when its exit code is there.
- Every sandbox of Fermata and podman has a network of its own; runsc is driven directly and has none.
- The total of our snapshots is that of our own interface, which also counts the bytes held (about half a second for
  50,000 files). The Beam call answers before that count.
- "Pause" is how long the sandbox stood still: as Fermata's own interface returns it, and for podman's checkpoints as
  CRIU counted it (`frozen_time`). podman's `commit` and runsc do not tell.
- The web server is Python's own, with 200 MB of random bytes. Fermata starts it in a sandbox with an exposed port, the
  peers as the container's own program. It runs on after each memory snapshot: `snapshot_memory`, `podman container
  checkpoint --leave-running --compress=none --export`, `runsc checkpoint --leave-running --compression=none`. Its size
  is that of Fermata's memory half, of podman's archive (with changes of the filesystem) and of runsc's image.
- podman's CRIU is the one that Fermata uses, first on PATH.
- A restore is a new sandbox beside all others: `create_from_memory_snapshot` with `list_urls`, `podman container
  restore --import --name`, `runsc restore`. The server is asked through the exposed port; at podman's container
  address, whose look-up is not counted; and at runsc, which has no network here, by a shell that is started inside.
- Forks are of a running server: one memory snapshot, then the restores, Fermata's all at once, the peers' as many at
  once as there are cores.
- The waiting shell is `sh` in the middle of a `read`.
- runsc keeps its changes in memory (`--overlay2=root:memory`) and uses the systrap platform.
- An exposed port is compared with the same server on the host's own loopback, taking turns: a round trip of one byte
  on an open connection, connecting with a first round trip, and 1 GiB from the server to the client. It has no peer
  here: podman's `--publish` is for servers that listen on the container's outside address.
- Each measurement warms up first, except the forks, which are made once. Medians and nearest-rank percentiles; how
  often, for Fermata / for the peers: {rounds("create")} creations, {rounds("restore")} restores of the server,
  {rounds("restore_shell")} restores of the shell, {rounds("hold_memory", "total_ms")} memory snapshots and
  {rounds("hold_500_mb", "total_ms")} filesystem snapshots.
- Keepers are the processes a system adds for each sandbox: Fermata's shim and agent, podman's conmon, gVisor's sandbox
  and gofer. The user's own processes are not counted. PSS counts a shared page by its share.
"""
    )
