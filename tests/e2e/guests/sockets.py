"""Socket pairs of all kinds with data and descriptors on their way, listeners, eventfd, epoll."""

import contextlib
import os
import select
import socket

from guest import await_finish, check, is_ready, right

stream, stream_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
packet, packet_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
datagram, datagram_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
stream.sendall(b"x" * 50_000)
for number in range(5):
    packet.send(b"packet %d" % number)
    datagram.send(b"datagram %d" % number)
half, half_end = socket.socketpair()
half.sendall(b"last words")
half.shutdown(socket.SHUT_WR)

# Taken by the kernel, but not yet by us.
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", 9100))
listener.listen(8)
caller = socket.create_connection(("127.0.0.1", 9100))
accepted, _ = listener.accept()
caller.sendall(b"y" * 30_000)
accepted.sendall(b"z" * 30_000)
caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
# Nobody has accepted this one: it cannot be held, and must not hang in a restored sandbox.
waiting = socket.create_connection(("127.0.0.1", 9100))
dual = socket.create_server(("::", 9101), family=socket.AF_INET6, dualstack_ipv6=True)
six = socket.create_connection(("::1", 9101))
six_end, _ = dual.accept()
six.sendall(b"six")
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("127.0.0.1", 9102))

event = os.eventfd(3, os.EFD_NONBLOCK)
epoll = select.epoll()
epoll.register(event, select.EPOLLIN)
epoll.register(stream_end, select.EPOLLIN | select.EPOLLET)
epoll.register(datagram_end, select.EPOLLOUT | select.EPOLLONESHOT)
check(epoll.poll(1, 1))

reader, writer = os.pipe()
os.set_blocking(writer, False)
os.write(writer, b"in the pipe")
os.mkfifo("/tmp/fifo")
fifo = os.open("/tmp/fifo", os.O_RDWR)
os.write(fifo, b"in the fifo")

is_ready()
await_finish()


def read(end: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length and (piece := end.recv(length - len(data))):
        data += piece
    return data


for end in (stream_end, packet_end, datagram_end, half_end, caller, accepted, six_end, listener):
    end.settimeout(20)
check(read(stream_end, 50_000) == b"x" * 50_000, "the stream")
for number in range(5):
    check(packet_end.recv(100) == b"packet %d" % number, "packet", number)
    check(datagram_end.recv(100) == b"datagram %d" % number, "datagram", number)
check(half_end.recv(100) == b"last words" and half_end.recv(100) == b"", "the half-closed one")
check(read(accepted, 30_000) == b"y" * 30_000 and read(caller, 30_000) == b"z" * 30_000, "TCP")
check(caller.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1, "an option")
check(read(six_end, 3) == b"six", "IPv6")
udp.sendto(b"to myself", ("127.0.0.1", 9102))
udp.settimeout(20)
check(udp.recv(100) == b"to myself", "UDP")
with open("/run/fermata/generation") as file:
    restored = int(file.read()) > 0
waiting.settimeout(20)
if restored:
    with contextlib.suppress(ConnectionError):
        check(waiting.recv(1) == b"", "a call that was never taken hangs")
else:
    taken, _ = listener.accept()
    taken.sendall(b"taken")
    check(read(waiting, 5) == b"taken", "a call that waited")
again = socket.create_connection(("127.0.0.1", 9100), timeout=20)
other, _ = listener.accept()
again.sendall(b"new")
check(read(other, 3) == b"new", "a new connection")
check(os.eventfd_read(event) == 3, "the eventfd")
os.eventfd_write(event, 1)
check((event, select.EPOLLIN) in epoll.poll(5), "epoll")
check(os.read(reader, 100) == b"in the pipe" and not os.get_blocking(writer), "the pipe")
check(os.read(fifo, 100) == b"in the fifo", "the fifo")
socket.send_fds(stream, [b"f"], [reader])
_, descriptors, _, _ = socket.recv_fds(stream_end, 10, 1)
check(os.fstat(descriptors[0]).st_ino == os.fstat(reader).st_ino, "a descriptor that was passed")
right()
