COUNT = 1000


def setup():
    threading.stack_size(128 << 10)
    gate = threading.Event()
    sums = [0] * COUNT

    def work(number):
        local = number
        gate.wait()
        sums[number] = local * 2

    threads = [threading.Thread(target=work, args=(number,)) for number in range(COUNT)]
    for thread in threads:
        thread.start()
    return gate, sums, threads


def check(gate, sums, threads):
    assert len(os.listdir("/proc/self/task")) == COUNT + 1
    gate.set()
    for thread in threads:
        thread.join()
    assert sums == [number * 2 for number in range(COUNT)]


guest(setup, check)
