//! Loop devices (`loop(4)`): a file as a block device.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::ioctl;

const CTL_GET_FREE: ioctl::Opcode = 0x4C82;
const CONFIGURE: ioctl::Opcode = 0x4C0A;
const FLAG_READ_ONLY: u32 = 1;
const FLAG_AUTOCLEAR: u32 = 4;
const FLAG_DIRECT_IO: u32 = 16;
/// Another process may take the free device between asking and using; more than this many times is not bad luck.
const ATTEMPTS: usize = 64;

/// `struct loop_info64`.
#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

const _: () = assert!(
    size_of::<Info>() == 232 && size_of::<Config>() == 304,
    "the kernel's structures"
);

/// How the device reaches its file.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// No writing.
    pub read_only: bool,
    /// Past the page cache of the file's filesystem.
    pub direct_io: bool,
    /// Logical block size in bytes; 0 for the kernel's choice.
    pub block_size: u32,
}

/// An attached device. It detaches by itself when nothing has it open or mounted any more, so a crash leaves none behind.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    file: File,
}

impl LoopDevice {
    /// Attaches `backing` to a free device. `LOOP_CONFIGURE` (Linux 5.8) sets everything in one step.
    pub fn attach(backing: BorrowedFd<'_>, options: Options) -> io::Result<Self> {
        let control = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/loop-control")?;
        for _ in 0..ATTEMPTS {
            let index = free_index(&control)?;
            let path = PathBuf::from(format!("/dev/loop{index}"));
            ensure_node(&path, index)?;
            let file = OpenOptions::new()
                .read(true)
                .write(!options.read_only)
                .open(&path)?;
            match configure(&file, backing, options) {
                Ok(()) => return Ok(Self { path, file }),
                Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Errno::BUSY.into())
    }

    /// Opens the device that has `backing` (a canonical path) as its file already, if there is one.
    pub fn find(backing: &Path) -> io::Result<Option<Self>> {
        for entry in std::fs::read_dir("/sys/block")? {
            let entry = entry?;
            let Ok(text) = std::fs::read(entry.path().join("loop/backing_file")) else {
                continue;
            };
            use std::os::unix::ffi::OsStrExt;
            if text.strip_suffix(b"\n").unwrap_or(&text) != backing.as_os_str().as_bytes() {
                continue;
            }
            let path = Path::new("/dev").join(entry.file_name());
            let file = OpenOptions::new().read(true).write(true).open(&path)?;
            return Ok(Some(Self { path, file }));
        }
        Ok(None)
    }

    /// `/dev/loopN`; valid as long as this value lives or the device is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether reads and writes go past the page cache.
    pub fn direct_io(&self) -> io::Result<bool> {
        let name = self.path.file_name().unwrap_or_default();
        let text = std::fs::read_to_string(Path::new("/sys/block").join(name).join("loop/dio"))?;
        Ok(text.trim() == "1")
    }

    /// The open device.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }
}

fn free_index(control: &File) -> io::Result<u32> {
    struct GetFree;
    // SAFETY: LOOP_CTL_GET_FREE takes no argument and returns the index.
    unsafe impl ioctl::Ioctl for GetFree {
        type Output = i32;
        const IS_MUTATING: bool = false;
        fn opcode(&self) -> ioctl::Opcode {
            CTL_GET_FREE
        }
        fn as_ptr(&mut self) -> *mut rustix::ffi::c_void {
            std::ptr::null_mut()
        }
        unsafe fn output_from_ptr(
            output: ioctl::IoctlOutput,
            _argument: *mut rustix::ffi::c_void,
        ) -> rustix::io::Result<i32> {
            Ok(output)
        }
    }
    // SAFETY: the call above describes the opcode; nothing is passed.
    let index = unsafe { ioctl::ioctl(control, GetFree) }?;
    u32::try_from(index).map_err(io::Error::other)
}

/// A container's `/dev` may lack the node that the control device just made.
fn ensure_node(path: &Path, index: u32) -> io::Result<()> {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
    match mknodat(
        CWD,
        path,
        FileType::BlockDevice,
        Mode::from_raw_mode(0o660),
        makedev(7, index),
    ) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn configure(device: &File, backing: BorrowedFd<'_>, options: Options) -> io::Result<()> {
    let mut flags = FLAG_AUTOCLEAR;
    if options.read_only {
        flags |= FLAG_READ_ONLY;
    }
    if options.direct_io {
        flags |= FLAG_DIRECT_IO;
    }
    let config = Config {
        fd: u32::try_from(backing.as_raw_fd()).map_err(io::Error::other)?,
        block_size: options.block_size,
        info: Info {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        },
        reserved: [0; 8],
    };
    // SAFETY: LOOP_CONFIGURE reads a `struct loop_config`, which `Config` mirrors (sizes checked above).
    let setter = unsafe { ioctl::Setter::<CONFIGURE, Config>::new(config) };
    // SAFETY: as above; the descriptor in it is borrowed for the length of the call and the kernel takes its own reference.
    unsafe { ioctl::ioctl(device, setter) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_file_becomes_a_device_and_is_found_and_let_go() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap().join("image");
        let backing = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        backing.set_len(1 << 20).unwrap();
        assert!(LoopDevice::find(&path).unwrap().is_none());

        let device = LoopDevice::attach(backing.as_fd(), Options::default()).unwrap();
        let found = LoopDevice::find(&path).unwrap().unwrap();
        assert_eq!(found.path(), device.path());
        assert!(!device.direct_io().unwrap());

        drop(found);
        drop(device);
        // udev may hold the device open for a moment.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while LoopDevice::find(&path).unwrap().is_some() {
            assert!(
                std::time::Instant::now() < deadline,
                "the device is still attached"
            );
            std::thread::yield_now();
        }
    }
}
