def setup():
    # Anonymous memory, a private and a shared mapping of a file, a file that is being read.
    block = os.urandom(1 << 20) * 8
    path = "/mapped"
    with open(path, "wb") as file:
        file.write(b"\0" * 8192)
    file = open(path, "r+b")
    shared = mmap.mmap(file.fileno(), 8192)
    private = mmap.mmap(file.fileno(), 8192, flags=mmap.MAP_PRIVATE)
    shared[0:6] = b"shared"
    private[4096:4103] = b"private"
    reading = open("/reading", "w+b")
    reading.write(b"a" * 5000)
    reading.flush()
    reading.seek(1234)
    appending = open("/appending", "ab")
    appending.write(b"one")
    appending.flush()
    return block, hashlib.sha256(block).digest(), shared, private, reading, appending


def check(block, digest, shared, private, reading, appending):
    assert hashlib.sha256(block).digest() == digest
    assert shared[0:6] == b"shared" and private[0:6] == b"shared"
    assert private[4096:4103] == b"private" and shared[4096:4103] == b"\0" * 7
    shared[10:14] = b"more"
    shared.flush()
    assert open("/mapped", "rb").read(14)[10:] == b"more"
    assert reading.tell() == 1234
    assert reading.read() == b"a" * (5000 - 1234)
    appending.write(b"two")
    appending.flush()
    assert open("/appending", "rb").read() == b"onetwo"


guest(setup, check)
