"""What a program inside finds when it tries what it must not."""

import os

import pytest
from commands import python, run, sh
from host import agent_of


@pytest.fixture(scope="module")
def inside(server):
    """One sandbox for all: nothing here changes it."""
    from beam import Sandbox

    with Sandbox().create() as sandbox:
        yield sandbox


def test_namespaces_are_its_own(server, inside):
    kinds = ["pid", "mnt", "ipc", "uts", "cgroup", "net", "time"]
    ours = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in kinds}
    theirs = {kind: sh(inside, f"readlink /proc/self/ns/{kind}").strip() for kind in kinds}
    assert [kind for kind in kinds if ours[kind] == theirs[kind]] == []


def test_two_sandboxes_share_no_namespace(inside, sandbox):
    look = "for kind in pid mnt ipc uts cgroup net time; do readlink /proc/self/ns/$kind; done"
    assert set(sh(inside, look).split()) & set(sh(sandbox, look).split()) == set()


def test_processes_of_the_host_are_not_seen(inside):
    pids = [int(pid) for pid in sh(inside, "ls /proc | grep -E '^[0-9]+$'").split()]
    assert 1 in pids
    assert len(pids) < 20
    assert run(inside, "kill", "-0", str(os.getpid())).code != 0 or os.getpid() in pids


@pytest.mark.parametrize("who", ["self", "1"])
def test_capabilities_are_dockers(inside, who):
    wanted = "00000000a80425fb"
    status = dict(line.split(":\t", 1) for line in sh(inside, f"grep ^Cap /proc/{who}/status").splitlines())
    assert (status["CapPrm"], status["CapEff"], status["CapBnd"]) == (wanted, wanted, wanted)
    assert status["CapAmb"] == "0" * 16


def test_seccomp_filters(inside):
    assert sh(inside, "awk '/^Seccomp:/ {print $2}' /proc/self/status /proc/1/status").split() == ["2", "2"]


SYSCALL = """
import ctypes, errno, sys
libc = ctypes.CDLL(None, use_errno=True)
number, *arguments = (int(value) for value in sys.argv[1:])
result = libc.syscall(number, *arguments)
print(errno.errorcode[ctypes.get_errno()] if result == -1 else "allowed")
"""


@pytest.mark.parametrize(
    ("name", "number", "arguments", "answer"),
    [
        ("io_uring_setup", 425, (1, 0), "ENOSYS"),
        ("userfaultfd", 323, (0,), "ENOSYS"),
        ("clone3", 435, (0, 0), "ENOSYS"),
        ("mount", 165, (0, 0, 0, 0, 0), "EPERM"),
        ("unshare(CLONE_NEWUSER)", 272, (0x10000000,), "EPERM"),
        ("setns", 308, (0, 0), "EPERM"),
        ("init_module", 175, (0, 0, 0), "EPERM"),
        ("kexec_load", 246, (0, 0, 0, 0), "EPERM"),
        ("bpf", 321, (0, 0, 0), "EPERM"),
        ("perf_event_open", 298, (0, 0, 0, 0, 0), "EPERM"),
        ("keyctl", 250, (0, 0, 0, 0, 0), "EPERM"),
        ("open_by_handle_at", 304, (0, 0, 0), "EPERM"),
        ("reboot", 169, (0, 0, 0, 0), "EPERM"),
        ("swapon", 167, (0, 0), "EPERM"),
        ("settimeofday", 164, (0, 0), "EPERM"),
        ("pivot_root", 155, (0, 0), "EPERM"),
        ("getpid", 39, (), "allowed"),
    ],
    ids=lambda value: value if isinstance(value, str) and "E" not in value[:1] else "",
)
def test_system_calls(inside, name, number, arguments, answer):
    if os.uname().machine != "x86_64":
        pytest.skip("the numbers are those of x86_64")
    assert python(inside, SYSCALL, str(number), *map(str, arguments)).strip() == answer, name


def test_programs_find_another_way_without_clone3(inside):
    """ENOSYS, not EPERM: the C library then starts threads with clone."""
    assert (
        python(inside, "import threading as t; x = t.Thread(target=print, args=('thread',)); x.start(); x.join()")
        == "thread\n"
    )


@pytest.mark.parametrize(
    ("kind", "major", "minor"), [("c", 1, 1), ("b", 254, 0), ("b", 7, 0), ("c", 10, 229), ("c", 10, 232), ("b", 8, 0)]
)
def test_devices_of_the_host_cannot_be_opened(inside, kind, major, minor):
    node = f"/tmp/dev-{kind}-{major}-{minor}"
    script = f"mknod {node} {kind} {major} {minor} && head -c 1 {node}"
    result = run(inside, "sh", "-c", script)
    assert result.code != 0
    assert "not permitted" in result.stderr or "denied" in result.stderr, result


def test_usual_devices_work(inside):
    script = (
        "echo x >/dev/null; head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c; head -c 4 /dev/random | wc -c;"
        " test -c /dev/tty; test -c /dev/ptmx; ls /dev/fd/0 /dev/stdin >/dev/null; touch /dev/shm/x; rm /dev/shm/x"
    )
    assert sh(inside, script).split() == ["4", "4", "4"]
    assert python(inside, "import pty, os; m, s = pty.openpty(); print(os.ttyname(s))").startswith("/dev/pts/")


def test_the_system_cannot_be_tuned(inside):
    for path in (
        "/proc/sys/kernel/hostname",
        "/proc/sys/vm/drop_caches",
        "/proc/sysrq-trigger",
        "/sys/kernel/mm/ksm/run",
    ):
        result = run(inside, "sh", "-c", f"echo 1 >{path}")
        assert result.code != 0, path
        assert any(word in result.stderr.lower() for word in ("read-only", "denied", "nonexistent")), result


def test_what_shows_the_host_is_masked(inside):
    assert sh(inside, "head -c 10 /proc/kcore | wc -c").strip() == "0"
    files = "cat /proc/keys /proc/timer_list /proc/interrupts /proc/sched_debug 2>/dev/null"
    directories = "ls -A /sys/firmware 2>/dev/null; ls -A /proc/scsi 2>/dev/null; ls -A /proc/acpi 2>/dev/null"
    assert run(inside, "sh", "-c", f"{files}; {directories}").stdout == ""


@pytest.mark.parametrize(
    "command",
    [
        "mount -t tmpfs none /mnt",
        "mount -t proc proc /mnt",
        "mount --bind / /mnt",
        "mount -o remount,rw /proc/sys",
        "umount /proc/kcore",
        "umount -l /proc",
        "unshare -m true",
        "unshare -U true",
        "chroot /proc/1/root/../.. cat /host 2>&1; false",
        "hostname changed",
        "date -s 2001-01-01",
    ],
)
def test_commands_that_would_get_out(inside, command):
    assert run(inside, "sh", "-c", command).code != 0


def test_the_agent_cannot_be_harmed_from_inside(inside):
    for signal in ("KILL", "TERM", "STOP", "SEGV"):
        run(inside, "kill", f"-{signal}", "1")
    assert run(inside, "echo", "alive").stdout == "alive\n"
    assert run(inside, "sh", "-c", "echo x >/proc/1/mem").code != 0


def test_the_agent_takes_no_commands_from_inside(inside):
    """It listens on an abstract socket in the sandbox's own network namespace; only the host may speak to it."""
    script = (
        "import socket\n"
        "names = [line.split()[-1] for line in open('/proc/net/unix') if '@' in line]\n"
        "assert names, 'no listener found'\n"
        "for name in names:\n"
        "    with socket.socket(socket.AF_UNIX) as peer:\n"
        "        peer.settimeout(5)\n"
        "        try:\n"
        "            peer.connect('\\0' + name[1:])\n"
        "            peer.sendall(b'\\x02\\0\\0\\0\\x42\\0')\n"  # ListProcesses
        "            print(repr(peer.recv(100)))\n"
        "        except OSError as error:\n"
        "            print(repr(b''))\n"
    )
    assert set(python(inside, script).split()) == {"b''"}


def test_no_file_of_the_host_is_open_in_process_1(server, inside):
    open_files = {
        os.readlink(f"/proc/{agent_of(server, inside)}/fd/{fd}")
        for fd in os.listdir(f"/proc/{agent_of(server, inside)}/fd")
    }
    assert [name for name in open_files if str(server.data_directory) in name] == []


def test_root_is_writable_and_one_filesystem(inside):
    assert sh(inside, "touch /a /usr/b /etc/c; stat -c %d / /usr /etc /tmp | sort -u | wc -l").strip() == "1"


def test_inode_numbers_are_unique(inside):
    """Programs such as cp and tar tell files apart by device and inode number."""
    count = sh(inside, "touch /new-file; find / -xdev -links 1 -printf '%D %i\\n' | sort | uniq -d | wc -l")
    assert count.strip() == "0"
