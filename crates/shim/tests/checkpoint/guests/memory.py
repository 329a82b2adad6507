def setup():
    block = bytearray(os.urandom(1 << 20) * 8)
    digest = hash(bytes(block))
    file = open("/workspace-file", "w+b")
    file.write(b"a" * 5000)
    file.flush()
    file.seek(1234)
    return block, digest, file


def check(block, digest, file):
    assert hash(bytes(block)) == digest
    assert file.tell() == 1234
    assert file.read() == b"a" * (5000 - 1234)


guest(setup, check)
