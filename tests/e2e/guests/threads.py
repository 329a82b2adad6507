"""Threads that pass numbers on through locks, conditions and queues; none gets lost or comes twice."""

import queue
import threading

from guest import check, goes_on, is_ready, right

WORKERS = 8
work: queue.Queue[int | None] = queue.Queue(maxsize=32)
results: queue.Queue[int] = queue.Queue()
lock = threading.Lock()
shared = 0


def run() -> None:
    global shared
    while (number := work.get()) is not None:
        with lock:
            before = shared
            shared = before + 1
        results.put(number)


workers = [threading.Thread(target=run) for _ in range(WORKERS)]
for worker in workers:
    worker.start()
is_ready()
sent = 0
while goes_on():
    work.put(sent)
    sent += 1
for _ in workers:
    work.put(None)
for worker in workers:
    worker.join()
check(shared == sent, "counted", shared, "of", sent)
check(sorted(results.queue) == list(range(sent)), "not each number once")
right()
