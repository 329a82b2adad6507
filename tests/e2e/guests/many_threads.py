"""A thousand threads that all wait, in a row: a token goes round."""

import sys
import threading

from guest import check, goes_on, is_ready, right

COUNT = int(sys.argv[1])
threading.stack_size(64 << 10)
gates = [threading.Semaphore(0) for _ in range(COUNT)]
rounds = [0] * COUNT
end = threading.Event()


def run(number: int) -> None:
    own = threading.get_native_id()
    while True:
        gates[number].acquire()
        check(threading.get_native_id() == own, "thread", number, "has another id")
        if not end.is_set():
            rounds[number] += 1
        gates[(number + 1) % COUNT].release()
        if end.is_set():
            return


threads = [threading.Thread(target=run, args=(number,)) for number in range(COUNT)]
for thread in threads:
    thread.start()
gates[0].release()
is_ready()
while goes_on():
    end.wait(0.01)
check(len(threading.enumerate()) == COUNT + 1, "threads are missing")
end.set()
for thread in threads:
    thread.join()
check(max(rounds) - min(rounds) <= 1, "the token was lost or doubled", min(rounds), max(rounds))
right()
