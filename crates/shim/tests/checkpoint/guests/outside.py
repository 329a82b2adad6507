def setup():
    # A socket of a kind that CRIU does not hold, in a child with a name of its own.
    reader, writer = os.pipe()

    def hold():
        with open("/proc/self/comm", "w") as file:
            file.write("stubborn")
        # Multipath TCP.
        odd = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
        odd.bind(("127.0.0.1", 0))
        odd.listen()
        os.write(writer, b"x")
        signal.sigwait({signal.SIGUSR2})
        os._exit(0)

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    child = fork(hold)
    os.read(reader, 1)
    return (child,)


def check(child):
    os.kill(child, signal.SIGUSR2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


guest(setup, check)
