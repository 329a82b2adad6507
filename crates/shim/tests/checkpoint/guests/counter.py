def setup():
    # Shared memory between two processes, a file, and a pipe between them as the order of events.
    memory = mmap.mmap(-1, 4096)
    stop = mmap.mmap(-1, 4096)

    def count():
        file = os.open("/counter", os.O_RDWR | os.O_CREAT)
        value = 0
        while stop[0] == 0:
            value += 1
            # The file leads by at most one.
            os.pwrite(file, struct.pack("Q", value), 0)
            memory[0:8] = struct.pack("Q", value)
        os._exit(0)

    counter = fork(count)
    while struct.unpack("Q", memory[0:8])[0] < 1000:
        time.sleep(0.001)
    return memory, stop, counter


def check(memory, stop, counter):
    before = struct.unpack("Q", memory[0:8])[0]
    stop[0] = 1
    assert os.waitstatus_to_exitcode(os.waitpid(counter, 0)[1]) == 0
    in_memory = struct.unpack("Q", memory[0:8])[0]
    with open("/counter", "rb") as file:
        in_file = struct.unpack("Q", file.read())[0]
    assert in_memory == in_file and in_memory >= before, (in_memory, in_file, before)


guest(setup, check)
