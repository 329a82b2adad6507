libc = ctypes.CDLL(None, use_errno=True)


def setup():
    queue = libc.mq_open(b"/orders", os.O_RDWR | os.O_CREAT, 0o600, None)
    assert queue >= 0, os.strerror(ctypes.get_errno())
    assert libc.mq_send(queue, b"first", 5, 1) == 0
    return (queue,)


def check(queue):
    message = ctypes.create_string_buffer(8192)
    assert libc.mq_receive(queue, message, 8192, None) == 5


guest(setup, check)
