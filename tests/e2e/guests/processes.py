"""Workers of `multiprocessing` with queues, a lock, an event, a barrier and shared values."""

import multiprocessing
import os

from guest import check, goes_on, is_ready, right

WORKERS = 3


def run(tasks, results, lock, value) -> None:
    while (task := tasks.get()) is not None:
        with lock:
            value.value += task
        results.put((task, task * task, os.getpid(), os.getppid()))


def main() -> None:
    context = multiprocessing.get_context("fork")
    tasks, results = context.Queue(16), context.Queue(16)
    lock, value = context.Lock(), context.Value("Q", 0, lock=False)
    workers = [context.Process(target=run, args=(tasks, results, lock, value)) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    pids = {worker.pid for worker in workers}
    is_ready()
    number = total = 0
    while goes_on():
        batch = range(number, number + 6)
        for task in batch:
            tasks.put(task)
        answers = [results.get(timeout=30) for _ in batch]
        check(sorted(task for task, *_ in answers) == list(batch), "answers to other questions", answers)
        check(all(square == task * task for task, square, *_ in answers), answers)
        check({pid for *_, pid, _ in answers} <= pids, "a worker has another pid")
        check({parent for *_, parent in answers} == {os.getpid()}, "a worker has another parent")
        number += len(batch)
        total += sum(batch)
        check(value.value == total, "the shared sum is", value.value, "not", total)
    for _ in workers:
        tasks.put(None)
    for worker in workers:
        worker.join(30)
        check(worker.exitcode == 0, "a worker ended with", worker.exitcode)


main()
right()
