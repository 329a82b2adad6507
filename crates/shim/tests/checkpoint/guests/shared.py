ROOT = "/dev/shm"


def look(path):
    """Everything that can be told of a path and what is below it."""
    status = os.lstat(path)
    facts = [path, oct(status.st_mode), status.st_uid, status.st_gid, status.st_nlink, status.st_rdev, status.st_mtime_ns]
    facts += [status.st_size, status.st_blocks] if stat.S_ISREG(status.st_mode) else []
    facts += [(name, os.getxattr(path, name, follow_symlinks=False)) for name in os.listxattr(path, follow_symlinks=False)]
    if stat.S_ISLNK(status.st_mode):
        facts.append(os.readlink(path))
    if stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            facts.append(hashlib.sha256(file.read()).hexdigest())
    found = [facts]
    if stat.S_ISDIR(status.st_mode):
        for name in sorted(os.listdir(os.fsencode(path))):
            found += look(os.path.join(os.fsencode(path), name))
    return found


def setup():
    os.makedirs(f"{ROOT}/deep/er")
    with open(f"{ROOT}/deep/er/file", "w") as file:
        file.write("content")
    os.chmod(f"{ROOT}/deep/er/file", 0o4751)
    os.chown(f"{ROOT}/deep/er/file", 1234, 5678)
    os.link(f"{ROOT}/deep/er/file", f"{ROOT}/other-name")
    os.symlink("/no/such/place", f"{ROOT}/deep/link")
    os.mkfifo(f"{ROOT}/fifo", 0o640)
    os.mknod(f"{ROOT}/null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    with open(f"{ROOT}/sparse", "wb") as file:
        file.truncate(32 << 20)
        file.seek(20 << 20)
        file.write(b"in the middle")
    open(os.fsencode(ROOT) + b"/\xff\n odd", "w").close()
    open(f"{ROOT}/empty", "w").close()
    os.setxattr(f"{ROOT}/empty", "user.note", b"kept")
    os.chmod(f"{ROOT}/deep", 0o1700)
    os.symlink("pts/0", "/dev/own-link")
    os.chmod("/dev/null", 0o660)
    for path in [f"{ROOT}/deep/er", f"{ROOT}/deep", f"{ROOT}/sparse", ROOT]:
        os.utime(path, ns=(1, 1_234_567_890_123_456_789))
    return look(ROOT), look("/dev/null"), os.readlink("/dev/own-link")


def check(shared, null, link):
    assert look("/dev/null") == null
    assert os.readlink("/dev/own-link") == link
    for before, after in zip(shared, look(ROOT), strict=True):
        assert before == after, (before, after)


guest(setup, check)
