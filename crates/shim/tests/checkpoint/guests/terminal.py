def setup():
    # A shell with a job on a terminal.
    master, slave = pty.openpty()

    def shell():
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        for number in range(3):
            os.dup2(slave, number)
        os.closerange(3, 100)
        os.environ["PS1"] = "$ "
        os.execv("/bin/bash", ["bash", "--norc", "-i"])

    pid = fork(shell)
    os.close(slave)
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
    os.write(master, b"stty -echo; value=kept; sleep 1000 & echo ma''rk\n")
    expect(master, b"mark\r\n")
    return master, pid


def expect(master, words):
    text = b""
    while words not in text:
        assert select.select([master], [], [], 20)[0], text
        text += os.read(master, 4096)
    return text


def check(master, pid):
    assert struct.unpack("HHHH", fcntl.ioctl(master, termios.TIOCGWINSZ, b"\0" * 8))[:2] == (33, 77)
    os.write(master, b"echo $value-$(stty size)-en''d; jobs\n")
    text = expect(master, b"Running")
    assert b"kept-33 77-end" in text, text
    # Job control: the terminal's interrupt reaches the foreground job only.
    os.write(master, b"sleep 2000\n")
    deadline = time.monotonic() + 20
    while os.tcgetpgrp(master) == pid:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.write(master, b"\x03echo code $?-en''d\n")
    assert b"code 130-end" in expect(master, b"-end")
    os.write(master, b"kill %1; exit 5\n")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5


guest(setup, check)
