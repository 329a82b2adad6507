libc = ctypes.CDLL(None, use_errno=True)
EFD_SEMAPHORE = 1
SFD = 0


class Spec(ctypes.Structure):
    _fields_ = [("interval_s", ctypes.c_long), ("interval_ns", ctypes.c_long), ("value_s", ctypes.c_long), ("value_ns", ctypes.c_long)]


def setup():
    event = libc.eventfd(7, 0)
    spec = Spec(0, 0, 600, 0)
    late = libc.timerfd_create(time.CLOCK_MONOTONIC, 0)
    libc.timerfd_settime(late, 0, ctypes.byref(spec), None)
    spec = Spec(0, 20_000_000, 0, 1_000_000)
    often = libc.timerfd_create(time.CLOCK_BOOTTIME, 0)
    libc.timerfd_settime(often, 0, ctypes.byref(spec), None)
    mask = (ctypes.c_ulong * 16)(1 << (signal.SIGUSR2 - 1))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGHUP, signal.SIGRTMIN})
    signals = libc.signalfd(-1, mask, 0)
    os.kill(os.getpid(), signal.SIGUSR2)
    os.kill(os.getpid(), signal.SIGHUP)
    # Queued real-time signals are counted one by one.
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGRTMIN)
    poll = select.epoll()
    poll.register(event, select.EPOLLIN)
    reader, writer = os.pipe()
    poll.register(reader, select.EPOLLIN | select.EPOLLET)
    nested = select.epoll()
    nested.register(poll.fileno(), select.EPOLLIN)
    fired = []
    signal.signal(signal.SIGALRM, lambda *_: fired.append(time.monotonic()))
    signal.setitimer(signal.ITIMER_REAL, 1000, 0)
    clocks = time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME), time.time()
    return event, late, often, signals, poll, nested, reader, writer, clocks


def check(event, late, often, signals, poll, nested, reader, writer, clocks):
    assert struct.unpack("Q", os.read(event, 8))[0] == 7
    left = Spec()
    libc.timerfd_gettime(late, ctypes.byref(left))
    assert 500 < left.value_s < 600, left.value_s
    assert struct.unpack("Q", os.read(often, 8))[0] >= 1
    assert struct.unpack("I", os.read(signals, 128)[:4])[0] == signal.SIGUSR2
    assert {signal.SIGHUP, signal.SIGRTMIN} <= signal.sigpending()
    for _ in range(3):
        assert signal.sigwait({signal.SIGRTMIN}) == signal.SIGRTMIN
    assert signal.SIGRTMIN not in signal.sigpending()
    os.write(writer, b"x")
    assert nested.poll(5)[0][0] == poll.fileno()
    assert dict(poll.poll(5)) == {reader: select.EPOLLIN}
    remaining, _ = signal.getitimer(signal.ITIMER_REAL)
    assert 900 < remaining < 1000, remaining
    monotonic, boot, wall = clocks
    assert 0 <= time.monotonic() - monotonic < 100
    assert 0 <= time.clock_gettime(time.CLOCK_BOOTTIME) - boot < 100
    assert 0 <= time.time() - wall < 100


guest(setup, check)
