"""Starting the programs under `guests/`, which check themselves, and letting them come to their end."""

from pathlib import Path

from beta9.abstractions.sandbox import SandboxInstance, SandboxProcess

GUESTS = Path(__file__).parent / "guests"


def start(sandbox: SandboxInstance, guest: str, *arguments: str) -> SandboxProcess:
    """Returns once the guest may be held."""
    for name in ("guest.py", f"{guest}.py"):
        sandbox.fs.write_bytes(f"/guests/{name}", (GUESTS / name).read_bytes())
    process = sandbox.process.exec("python3", f"/guests/{guest}.py", *arguments, cwd="/")
    sandbox.fs.wait_for("/tmp/ready", timeout=60)
    return process


def finish(sandbox: SandboxInstance, pid: int) -> None:
    """Lets the guest come to its end, which must be a good one."""
    sandbox.fs.write_text("/tmp/finish", "")
    # A process that was started before the snapshot is found by its pid.
    process = sandbox.process.get_process(pid)
    code = process.wait(120)
    assert (code, process.stdout.read()) == (0, "right\n"), process.stderr.read()
