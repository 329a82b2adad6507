def setup():
    # A server with one connection inside; another comes from outside.
    listener = socket.create_server(("127.0.0.1", 8000))
    ends = []

    def serve(connection):
        try:
            while data := connection.recv(100):
                connection.sendall(data)
            ends.append("closed")
        except OSError as error:
            ends.append(errno.errorcode[error.errno])

    def accept():
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    inside = socket.create_connection(("127.0.0.1", 8000))
    inside.sendall(b"one")
    assert inside.recv(100) == b"one"
    return inside, ends


def check(inside, ends):
    inside.settimeout(10)
    inside.sendall(b"two")
    assert inside.recv(100) == b"two"
    deadline = time.monotonic() + 10
    while not ends:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    with open("/result", "w") as file:
        file.write(sorted(ends)[0])


guest(setup, check)
