def setup():
    # Deleted but open; deleted with another name left; 500 at once; in /dev/shm; a FIFO; a directory; locked.
    os.makedirs("/held/deep")
    gone = open("/held/gone", "w+b")
    gone.write(b"still here" * 100_000)
    gone.flush()
    os.unlink("/held/gone")
    linked = open("/held/first-name", "w+b")
    linked.write(b"linked")
    linked.flush()
    os.link("/held/first-name", "/held/second-name")
    os.unlink("/held/first-name")
    many = []
    for number in range(500):
        file = open(f"/held/deep/{number}", "w+")
        file.write(str(number))
        file.flush()
        many.append(file)
    shm = open("/dev/shm/segment", "w+b")
    shm.write(os.urandom(1 << 20))
    shm.flush()
    shm_map = mmap.mmap(shm.fileno(), 1 << 20)
    shm_gone = open("/dev/shm/gone", "w+b")
    shm_gone.write(b"gone")
    shm_gone.flush()
    os.unlink("/dev/shm/gone")
    os.mkfifo("/held/fifo")
    fifo = os.open("/held/fifo", os.O_RDWR)
    os.write(fifo, b"in the fifo")
    directory = os.open("/held/deep", os.O_RDONLY)
    locked = open("/held/locked", "w")
    fcntl.flock(locked, fcntl.LOCK_EX)
    record = open("/held/record", "w+b")
    record.write(b"x" * 100)
    record.flush()
    fcntl.lockf(record, fcntl.LOCK_EX, 10, 5)
    memory = os.memfd_create("memory")
    os.write(memory, b"memfd")
    os.chdir("/held/deep")
    open("/dev/shm/plain", "w").write("plain")
    digest = hashlib.sha256(shm_map[:]).digest()
    return gone, linked, many, shm, shm_map, shm_gone, fifo, directory, locked, record, memory, digest


def check(gone, linked, many, shm, shm_map, shm_gone, fifo, directory, locked, record, memory, digest):
    gone.seek(0)
    assert gone.read() == b"still here" * 100_000
    assert os.fstat(gone.fileno()).st_nlink == 0
    linked.seek(0)
    assert linked.read() == b"linked"
    linked.write(b"!")
    linked.flush()
    assert open("/held/second-name", "rb").read() == b"linked!"
    for number, file in enumerate(many):
        file.seek(0)
        assert file.read() == str(number)
    assert hashlib.sha256(shm_map[:]).digest() == digest
    shm_map[0:3] = b"new"
    shm.seek(0)
    assert shm.read(3) == b"new"
    shm_gone.seek(0)
    assert shm_gone.read() == b"gone"
    assert os.read(fifo, 100) == b"in the fifo"
    assert len(os.listdir(directory)) == 500
    assert os.getcwd() == "/held/deep"
    assert sorted(os.listdir("/held")) == ["deep", "fifo", "locked", "record", "second-name"], os.listdir("/held")
    assert sorted(os.listdir("/dev/shm")) == ["plain", "segment"], os.listdir("/dev/shm")
    assert open("/dev/shm/plain").read() == "plain"

    def contend():
        try:
            fcntl.flock(open("/held/locked"), fcntl.LOCK_EX | fcntl.LOCK_NB)
            os._exit(1)
        except BlockingIOError:
            pass
        try:
            fcntl.lockf(open("/held/record", "r+b"), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 7)
            os._exit(2)
        except BlockingIOError:
            os._exit(0)

    assert os.waitstatus_to_exitcode(os.waitpid(fork(contend), 0)[1]) == 0
    os.lseek(memory, 0, os.SEEK_SET)
    assert os.read(memory, 100) == b"memfd"


guest(setup, check)
