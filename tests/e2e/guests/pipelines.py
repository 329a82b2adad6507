"""Pipelines of programs: full pipes, waiting ends, exit codes that are still to be collected, many short lives."""

import subprocess
import threading

from guest import check, goes_on, is_ready, right


def long_pipeline() -> None:
    """Nobody reads faster than we do, so all pipes in it are full when it is held."""
    script = "seq 1 100000000 | sed 's/$/;/' | tr ';' ' ' | cat"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True) as shell:
        assert shell.stdout
        for number, line in enumerate(shell.stdout, 1):
            check(line == b"%d \n" % number, "line", number, "is", line)
            if number % 1000 == 0 and not goes_on():
                break
        shell.stdout.close()
        shell.kill()


def short_lives() -> None:
    turn = 0
    while goes_on():
        answer = subprocess.run(["sh", "-c", f"echo {turn} | sort | wc -l; exit {turn % 50}"], capture_output=True)
        check(answer.stdout == b"1\n" and answer.returncode == turn % 50, turn, answer)
        turn += 1


def zombies() -> None:
    """Ended, and nobody has asked how yet."""
    while goes_on():
        children = [subprocess.Popen(["sh", "-c", f"exit {code}"]) for code in range(5)]
        for code, child in enumerate(children):
            check(child.wait() == code, "exit code", child.returncode, "not", code)


threads = [threading.Thread(target=run) for run in (long_pipeline, short_lives, zombies)]
for thread in threads:
    thread.start()
is_ready()
for thread in threads:
    thread.join()
right()
