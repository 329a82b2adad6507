//! The sandbox's view of the file system.
//!
//! The order is what makes it safe: first the overlay becomes `/`, then everything else is mounted below it, so that a symlink in
//! an image (`/dev -> /etc`) can only lead to another place in the sandbox.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::Path;

use fermata_protocol::{RootSpec, ShimSpec};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount, mount_bind,
    mount_change, mount_remount, move_mount, unmount,
};

use crate::error::ShimError;

/// The nodes in `/dev`: name, major and minor number.
pub(crate) const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
pub(crate) const DEVICE_MODE: u32 = 0o666;
/// The links in `/dev`, and where they lead.
pub(crate) const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
    ("core", "/proc/kcore"),
];
/// What is mounted in `/dev`, and with which mode.
pub(crate) const MOUNTED_ON_DEVICES: [(&str, u32); 3] =
    [("pts", 0o755), ("mqueue", 0o1777), ("shm", 0o1777)];
/// Of `/dev` itself.
pub(crate) const DIRECTORY_MODE: u32 = 0o755;

/// Builds the root and moves this process into it.
pub(crate) fn enter(spec: &ShimSpec) -> Result<(), ShimError> {
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .map_err(ShimError::file("make private", "/"))?;
    pivot_into(&spec.root)?;
    mount_kernel_filesystems(spec)?;
    make_devices(Path::new("/dev"))?;
    let mut empty = None;
    for path in &spec.security.masked_paths {
        mask(path, &mut empty)?;
    }
    for path in &spec.security.read_only_paths {
        make_read_only(path)?;
    }
    let root = open_root()?;
    for (path, content) in &spec.files {
        write_file(&root, path, content)?;
    }
    Ok(())
}

fn open_root() -> Result<OwnedFd, ShimError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open("/", flags, Mode::empty()).map_err(ShimError::file("open", "/"))
}

/// Mounts the overlay on a directory.
pub(crate) fn mount_on(root: &RootSpec, place: &Path) -> Result<(), ShimError> {
    let overlay = (|| {
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        // One call a layer: a value of fsconfig(2) is limited to 255 bytes, mount(2)'s options to a page.
        for layer in &root.lower {
            fsconfig_set_string(&context, "lowerdir+", layer)?;
        }
        fsconfig_set_string(&context, "upperdir", &root.upper)?;
        fsconfig_set_string(&context, "workdir", &root.work)?;
        // All layers but one share no superblock: with xino every inode number is unique and one st_dev is shown.
        fsconfig_set_string(&context, "xino", "on")?;
        // rename(2) of a directory of the image works as on any file system instead of failing with EXDEV.
        fsconfig_set_string(&context, "redirect_dir", "on")?;
        fsconfig_set_string(&context, "index", "off")?;
        fsconfig_set_string(&context, "metacopy", "off")?;
        fsconfig_create(&context)?;
        fsmount(
            &context,
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::empty(),
        )
    })()
    .map_err(ShimError::file("mount the overlay of", &root.upper))?;
    move_mount(
        &overlay,
        c"",
        CWD,
        place,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .map_err(ShimError::file("mount the overlay on", place))
}

fn pivot_into(root: &RootSpec) -> Result<(), ShimError> {
    // Any directory will do as the place to mount on; it is left by the pivot at once.
    let place = Path::new("/proc");
    mount_on(root, place)?;
    rustix::process::chdir(place).map_err(ShimError::file("enter", place))?;
    // pivot_root(2), "pivot_root(".", ".")": the old root ends on top of the new one and is detached from there.
    rustix::process::pivot_root(".", ".").map_err(ShimError::system("pivot the root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(ShimError::system("detach the old root"))?;
    rustix::process::chdir("/").map_err(ShimError::file("enter", "/"))
}

fn mount_kernel_filesystems(spec: &ShimSpec) -> Result<(), ShimError> {
    let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let shared_memory = format!("mode=1777,size={}", spec.shared_memory_bytes);
    // The values are Docker's.
    let mounts: [(&str, &str, MountFlags, &str); 7] = [
        ("proc", "/proc", plain, ""),
        ("sysfs", "/sys", plain | MountFlags::RDONLY, ""),
        ("cgroup2", "/sys/fs/cgroup", plain | MountFlags::RDONLY, ""),
        (
            "tmpfs",
            "/dev",
            MountFlags::NOSUID | MountFlags::STRICTATIME,
            "mode=755,size=65536k",
        ),
        (
            "devpts",
            "/dev/pts",
            MountFlags::NOSUID | MountFlags::NOEXEC,
            "newinstance,ptmxmode=0666,mode=0620,gid=5",
        ),
        ("mqueue", "/dev/mqueue", plain, ""),
        ("tmpfs", "/dev/shm", plain, &shared_memory),
    ];
    for (kind, path, flags, options) in mounts {
        if path.starts_with("/dev/") {
            make_directory(path)?;
        }
        let options = std::ffi::CString::new(options).map_err(|_| ShimError::System {
            action: "mount with a zero byte in the options",
            source: Errno::INVAL.into(),
        })?;
        mount(kind, path, kind, flags, options.as_c_str())
            .map_err(ShimError::file("mount", path))?;
    }
    Ok(())
}

fn make_directory(path: &str) -> Result<(), ShimError> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(ShimError::file("make", path)(error)),
    }
}

/// Makes the nodes and links of `/dev` in a directory.
pub(crate) fn make_devices(directory: &Path) -> Result<(), ShimError> {
    let old_mask = rustix::process::umask(Mode::empty());
    for (name, major, minor) in DEVICES {
        let path = directory.join(name);
        rustix::fs::mknodat(
            CWD,
            &path,
            FileType::CharacterDevice,
            Mode::from_raw_mode(DEVICE_MODE),
            rustix::fs::makedev(major, minor),
        )
        .map_err(ShimError::file("make", path))?;
    }
    rustix::process::umask(old_mask);
    for (name, target) in LINKS {
        let link = directory.join(name);
        symlink(target, &link).map_err(ShimError::file("link", link))?;
    }
    Ok(())
}

/// Hides a path: a file behind `/dev/null`, a directory behind an empty read-only file system, which all of them share because each
/// one takes time when the sandbox is captured and restored. Absent paths need no hiding.
fn mask<'a>(path: &'a Path, empty: &mut Option<&'a Path>) -> Result<(), ShimError> {
    let covered = match (mount_bind("/dev/null", path), *empty) {
        (Err(Errno::NOTDIR), Some(empty)) => mount_bind(empty, path),
        (Err(Errno::NOTDIR), None) => mount(
            "tmpfs",
            path,
            "tmpfs",
            MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
            c"size=0k,nr_inodes=1",
        )
        .map(|()| *empty = Some(path)),
        (other, _) => other,
    };
    match covered {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(ShimError::file("mask", path)(error)),
    }
}

fn make_read_only(path: &Path) -> Result<(), ShimError> {
    match mount_bind(path, path) {
        Ok(()) => mount_remount(
            path,
            MountFlags::BIND
                | MountFlags::RDONLY
                | MountFlags::NOSUID
                | MountFlags::NODEV
                | MountFlags::NOEXEC,
            "",
        )
        .map_err(ShimError::file("make read-only", path)),
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(ShimError::file("make read-only", path)(error)),
    }
}

/// Puts a file of ours (`/etc/resolv.conf`) into the sandbox. Whatever else has its name is replaced: an image may have a link there
/// that leads nowhere useful (systemd-resolved's), a restored sandbox anything at all. Nothing is resolved outside `root`.
pub(crate) fn write_file(root: &OwnedFd, path: &Path, content: &str) -> Result<(), ShimError> {
    let failed = |action: &'static str| ShimError::file(action, path);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(failed("write")(Errno::INVAL));
    };
    let parent = make_directories(root, parent).map_err(failed("make the directory of"))?;
    match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(status) if FileType::from_raw_mode(status.st_mode) == FileType::RegularFile => {}
        Ok(_) => {
            rustix::fs::unlinkat(&parent, name, AtFlags::empty()).map_err(failed("replace"))?;
        }
        Err(Errno::NOENT) => {}
        Err(error) => return Err(failed("look at")(error)),
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o644);
    let file = rustix::fs::openat(&parent, name, flags, mode).map_err(failed("open"))?;
    let mut file = File::from(file);
    let mut old = Vec::new();
    // One byte more than ours tells a longer file.
    (&mut file)
        .take(content.len() as u64 + 1)
        .read_to_end(&mut old)
        .map_err(ShimError::file("read", path))?;
    // Writing what is there already would only make the snapshot larger.
    if old == content.as_bytes() {
        return Ok(());
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(content.as_bytes()))
        .map_err(ShimError::file("write", path))
}

/// Opens a directory inside `root`, made with its parents where they are missing.
fn make_directories(root: &OwnedFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let open = || {
        rustix::fs::openat2(
            root,
            path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT,
        )
    };
    match (open(), path.parent(), path.file_name()) {
        (Err(Errno::NOENT), Some(parent), Some(name)) => {
            let parent = make_directories(root, parent)?;
            rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
            open()
        }
        (result, _, _) => result,
    }
}
