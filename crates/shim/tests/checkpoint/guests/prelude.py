import ctypes
import errno
import fcntl
import hashlib
import mmap
import os
import pty
import select
import signal
import socket
import stat
import struct
import termios
import threading
import time
import traceback

GO = {signal.SIGUSR1}
signal.pthread_sigmask(signal.SIG_BLOCK, GO)


def ready():
    os.write(3, b"x")
    os.close(3)


def wait_for_go():
    signal.sigwait(GO)


def fork(child):
    pid = os.fork()
    if pid == 0:
        try:
            child()
        finally:
            os._exit(99)
    return pid


def state(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()[0]


def guest(setup, check):
    """Sets up, waits for whatever is done to it, checks."""
    try:
        state = setup()
        ready()
        wait_for_go()
        check(*state)
    except BaseException:
        with open("/result", "w") as file:
            traceback.print_exc(file=file)
        os._exit(1)
    os._exit(0)


