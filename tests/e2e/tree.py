"""Runs inside a sandbox: makes and changes random trees, and describes trees as JSON. Needs Python's own library only.

tree.py change ROOT SEED     adds, changes, renames and deletes inodes of every kind below ROOT
tree.py disturb ROOT SEED    deletes, renames and replaces a few directories and files below ROOT
tree.py describe ROOT        prints {path: everything that must survive}
"""

import base64
import hashlib
import json
import os
import random
import shutil
import socket
import stat
import struct
import sys

# user.* and what a file capability and an ACL are stored as (capabilities(7), acl(5)).
CAPABILITY = struct.pack("<IIIII", 0x0200_0001, 1 << 10, 0, 0, 0)
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, permissions, identity)
    for tag, permissions, identity in [
        (1, 7, 2**32 - 1),
        (2, 5, 1234),
        (4, 5, 2**32 - 1),
        (16, 7, 2**32 - 1),
        (32, 0, 2**32 - 1),
    ]
)


def change(root: str, chance: random.Random) -> None:
    os.makedirs(root, exist_ok=True)
    directories = [path for path, _, _ in os.walk(root)]
    for number in range(chance.randrange(80, 120)):
        parent = chance.choice([d for d in directories if os.path.isdir(d) and not os.path.islink(d)])
        path = os.path.join(parent, name(chance, number))
        if not os.path.lexists(path):
            create(path, chance, root)
            if os.path.isdir(path) and not os.path.islink(path):
                directories.append(path)
    everything = [os.path.join(d, n) for d, ds, fs in os.walk(root) for n in ds + fs]
    for path in chance.sample(everything, len(everything) // 6):
        if os.path.lexists(path):
            alter(path, chance, root)


def name(chance: random.Random, number: int) -> str:
    odd = chance.choice(["", " ", "\n", "'", '"', "\\", "☃", "-", "\udcff", ".", "x" * 200])
    return f"{odd}{number}-{chance.randrange(1 << 30):x}"


def create(path: str, chance: random.Random, root: str) -> None:
    kind = chance.choice(
        ["file"] * 4
        + ["directory"] * 3
        + ["symlink", "fifo", "socket", "character", "block", "link", "sparse", "empty"]
    )
    if kind in ("file", "empty", "sparse"):
        with open(path, "wb") as file:
            if kind == "file":
                file.write(chance.randbytes(chance.randrange(1, 200_000)))
            elif kind == "sparse":
                file.seek(chance.randrange(1 << 20, 1 << 24))
                file.write(b"end")
    elif kind == "directory":
        os.mkdir(path)
    elif kind == "symlink":
        os.symlink(chance.choice(["/none", "..", root, "x" * 1000]), path)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        # A socket's address holds 108 bytes: bind by a short name from inside the directory.
        here = os.getcwd()
        os.chdir(os.path.dirname(path))
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("s")
        os.chdir(here)
        os.rename(os.path.join(os.path.dirname(path), "s"), path)
    elif kind == "character":
        os.mknod(path, stat.S_IFCHR | 0o640, os.makedev(1, 3))
    elif kind == "block":
        os.mknod(path, stat.S_IFBLK | 0o640, os.makedev(7, chance.randrange(256)))
    elif kind == "link":
        files = [os.path.join(d, n) for d, _, fs in os.walk(root) for n in fs if not os.path.islink(os.path.join(d, n))]
        if files:
            os.link(chance.choice(files), path)
    if os.path.lexists(path):
        decorate(path, chance)


def decorate(path: str, chance: random.Random) -> None:
    if chance.random() < 0.5:
        os.chown(path, chance.randrange(70_000), chance.randrange(70_000), follow_symlinks=False)
    mode = os.lstat(path).st_mode
    if stat.S_ISLNK(mode):
        return
    os.chmod(path, chance.choice([0o644, 0o000, 0o777, 0o4755, 0o2755, 0o1777, 0o6711]))
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        if chance.random() < 0.3:
            os.setxattr(path, f"user.{chance.randrange(100)}", chance.randbytes(chance.randrange(0, 500)))
        if chance.random() < 0.2:
            os.setxattr(path, "system.posix_acl_access", ACL)
    if stat.S_ISREG(mode) and chance.random() < 0.2:
        os.setxattr(path, "security.capability", CAPABILITY)
    os.utime(path, ns=(chance.randrange(1 << 60), chance.randrange(1 << 60)))


def alter(path: str, chance: random.Random, root: str) -> None:
    what = chance.choice(["delete", "rename", "replace", "decorate", "append"])
    if what == "delete":
        delete(path)
    elif what == "rename":
        os.rename(path, os.path.join(root, f"moved-{chance.randrange(1 << 40):x}"))
    elif what == "replace":
        delete(path)
        create(path, chance, root)
    elif what == "decorate":
        decorate(path, chance)
    elif stat.S_ISREG(os.lstat(path).st_mode):
        with open(path, "ab") as file:
            file.write(b"appended")


def delete(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def disturb(root: str, chance: random.Random) -> None:
    """Whiteouts, opaque directories and renamed lower directories (overlayfs: redirects or copies)."""
    directories = sorted(entry.path for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False))
    # Python's own library is below /usr/lib: nothing here is needed to run on.
    for path in chance.sample(directories, min(4, len(directories))):
        what = chance.choice(["delete", "empty", "inside"])
        if what == "inside":
            for parent, _, files in os.walk(path):
                for file in files:
                    if chance.random() < 0.1:
                        alter(os.path.join(parent, file), chance, root)
            continue
        shutil.rmtree(path)
        if what == "empty":
            os.mkdir(path)
            with open(os.path.join(path, "new"), "w") as file:
                file.write(what)


def describe(root: str) -> dict[str, list]:
    found, links = {}, {}
    for parent, directories, files in os.walk(root):
        for entry in [".", *directories, *files]:
            path = os.path.normpath(os.path.join(parent, entry))
            if readable(path) in found:
                continue
            status = os.lstat(path)
            line = [
                stat.filemode(status.st_mode),
                status.st_uid,
                status.st_gid,
                status.st_rdev,
                # A directory's size and link count are its filesystem's business.
                [] if stat.S_ISDIR(status.st_mode) else [status.st_size, status.st_nlink],
                status.st_mtime_ns,
                {
                    key: base64.b64encode(os.getxattr(path, key, follow_symlinks=False)).decode()
                    for key in sorted(os.listxattr(path, follow_symlinks=False))
                },
                links.setdefault((status.st_dev, status.st_ino), []),
            ]
            if stat.S_ISREG(status.st_mode):
                with open(path, "rb") as file:
                    line.append(hashlib.file_digest(file, "sha256").hexdigest())
            elif stat.S_ISLNK(status.st_mode):
                line.append(readable(os.readlink(path)))
            # The names of one inode; the list is shared by all of them and filled as they are met.
            links[status.st_dev, status.st_ino].append(readable(path))
            found[readable(path)] = line
    for names in links.values():
        names.sort()
    return found


def readable(path: str) -> str:
    return os.fsencode(path).decode("latin-1")


def main() -> None:
    command, root, *rest = sys.argv[1:]
    if command == "describe":
        json.dump(describe(root), sys.stdout)
    else:
        {"change": change, "disturb": disturb}[command](root, random.Random(rest[0]))


if __name__ == "__main__":
    main()
