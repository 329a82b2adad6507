def write_all(descriptor, data):
    # A freeze interrupts write(2) like a stop signal does: what is written by then is its result.
    while data:
        data = data[os.write(descriptor, data) :]


def setup():
    # A pipeline in a process group, a session of its own, a stopped child, a zombie, an orphan's orphan.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    reader, writer = os.pipe()
    os.write(writer, b"queued")
    group = fork(lambda: (os.setpgid(0, 0), signal.sigwait({signal.SIGUSR2}), os._exit(11)))
    session = fork(lambda: (os.setsid(), signal.sigwait({signal.SIGUSR2}), os._exit(12)))
    stopped = fork(lambda: (os.kill(os.getpid(), signal.SIGSTOP), os._exit(13)))
    zombie = fork(lambda: os._exit(14))
    os.waitpid(stopped, os.WUNTRACED)
    while state(zombie) != "Z":
        time.sleep(0.001)
    while os.getpgid(group) != group or os.getsid(session) != session:
        time.sleep(0.001)
    # Blocked in write(2) until someone reads.
    big_reader, big_writer = os.pipe()
    filler = fork(lambda: (os.close(big_reader), write_all(big_writer, b"x" * 300_000), os._exit(15)))
    os.close(big_writer)
    return reader, writer, group, session, stopped, zombie, big_reader, filler


def check(reader, writer, group, session, stopped, zombie, big_reader, filler):
    assert os.read(reader, 100) == b"queued"
    os.write(writer, b"again")
    assert os.read(reader, 100) == b"again"
    assert os.getpgid(group) == group and os.getsid(session) == session
    assert state(stopped) == "T" and state(zombie) == "Z"
    os.kill(group, signal.SIGUSR2)
    os.kill(session, signal.SIGUSR2)
    os.kill(stopped, signal.SIGCONT)
    total = 0
    while chunk := os.read(big_reader, 65536):
        total += len(chunk)
    assert total == 300_000, total
    for pid, code in [(group, 11), (session, 12), (stopped, 13), (zombie, 14), (filler, 15)]:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == code, (pid, code)


guest(setup, check)
