"""What every guest program shares: it runs until it is told to finish, and is wrong at its first contradiction."""

import os
import sys
import time

READY = "/tmp/ready"
FINISH = "/tmp/finish"


def is_ready() -> None:
    """From here on the guest may be held at any moment."""
    open(READY, "w").close()


def goes_on() -> bool:
    return not os.path.exists(FINISH)


def check(condition: object, *words: object) -> None:
    if not condition:
        print("wrong:", *words, flush=True)
        os._exit(1)


def right() -> None:
    print("right", flush=True)
    sys.stdout.flush()
    os._exit(0)


def await_finish() -> None:
    while goes_on():
        time.sleep(0.01)
