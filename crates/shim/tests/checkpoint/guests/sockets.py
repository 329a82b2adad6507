def setup():
    stream = socket.socketpair()
    stream[0].send(b"queued in a stream")
    datagram = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    datagram[0].send(b"one")
    datagram[0].send(b"two")
    sequence = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sequence[1].send(b"packet")
    # A descriptor on its way.
    reader, writer = os.pipe()
    os.write(writer, b"passed")
    passing = socket.socketpair()
    socket.send_fds(passing[0], [b"fd"], [reader])
    os.close(reader)
    named = socket.socket(socket.AF_UNIX)
    named.bind("/named.sock")
    named.listen()
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind("\0abstract")
    abstract.listen()
    client = socket.socket(socket.AF_UNIX)
    client.connect("\0abstract")
    server, _ = abstract.accept()
    client.send(b"to the server")
    listener = socket.create_server(("127.0.0.1", 8000))
    six = socket.create_server(("::", 8001), family=socket.AF_INET6, dualstack_ipv6=True)
    tcp = socket.create_connection(("127.0.0.1", 8000))
    tcp_server, _ = listener.accept()
    tcp.send(b"over tcp")
    across = socket.create_connection(("127.0.0.1", 8001))
    across_server, _ = six.accept()
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 9000))
    return stream, datagram, sequence, passing, named, abstract, client, server, listener, tcp, tcp_server, across, across_server, udp


def check(stream, datagram, sequence, passing, named, abstract, client, server, listener, tcp, tcp_server, across, across_server, udp):
    assert stream[1].recv(100) == b"queued in a stream"
    stream[1].send(b"back")
    assert stream[0].recv(100) == b"back"
    assert [datagram[1].recv(100), datagram[1].recv(100)] == [b"one", b"two"]
    assert sequence[0].recv(100) == b"packet"
    _, descriptors, _, _ = socket.recv_fds(passing[1], 10, 1)
    assert os.read(descriptors[0], 100) == b"passed"
    for name, listening in [("/named.sock", named), ("\0abstract", abstract)]:
        fresh = socket.socket(socket.AF_UNIX)
        fresh.connect(name)
        accepted, _ = listening.accept()
        fresh.send(b"fresh")
        assert accepted.recv(100) == b"fresh"
    assert server.recv(100) == b"to the server"
    assert tcp_server.recv(100) == b"over tcp"
    tcp_server.send(b"answer")
    tcp.settimeout(10)
    assert tcp.recv(100) == b"answer"
    across.send(b"across")
    across_server.settimeout(10)
    assert across_server.recv(100) == b"across"
    fresh = socket.create_connection(("127.0.0.1", 8000))
    accepted, _ = listener.accept()
    fresh.send(b"fresh")
    assert accepted.recv(100) == b"fresh"
    udp.sendto(b"to itself", ("127.0.0.1", 9000))
    assert udp.recv(100) == b"to itself"


guest(setup, check)
