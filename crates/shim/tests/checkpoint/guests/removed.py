LAYERED = "/etc/passwd"


def setup():
    # Removed, with another name in another directory; and one that a layer below has, which counts its name still.
    os.makedirs("/held/far/away")
    os.makedirs("/held/near")
    moved = open("/held/near/first", "w+b")
    moved.write(b"moved")
    moved.flush()
    os.link("/held/near/first", "/held/far/away/second")
    os.unlink("/held/near/first")
    layered = open(LAYERED, "rb")
    words = layered.read()
    layered.seek(3)
    os.unlink(LAYERED)
    assert os.fstat(layered.fileno()).st_nlink == 1
    return moved, layered, words


def check(moved, layered, words):
    moved.write(b" on")
    moved.flush()
    assert open("/held/far/away/second", "rb").read() == b"moved on"
    assert layered.read() == words[3:]
    assert not os.path.exists(LAYERED)
    assert os.listdir("/held/near") == [] and os.listdir("/held/far/away") == ["second"]


guest(setup, check)
