//! File modes: the client speaks Go's `io/fs.FileMode`, the kernel `st_mode` of inode(7).

const PERMISSIONS: u32 = 0o777;
/// (Go's bit, the kernel's bit)
const SPECIAL: [(u32, u32); 3] = [(1 << 23, 0o4000), (1 << 22, 0o2000), (1 << 20, 0o1000)];

const KIND: u32 = 0o170_000;
const GO_DIRECTORY: u32 = 1 << 31;
const GO_SYMLINK: u32 = 1 << 27;
const GO_DEVICE: u32 = 1 << 26;
const GO_FIFO: u32 = 1 << 25;
const GO_SOCKET: u32 = 1 << 24;
const GO_CHARACTER_DEVICE: u32 = 1 << 21;

pub(super) fn is_directory(mode: u32) -> bool {
    mode & KIND == 0o040_000
}

/// From `st_mode`.
pub(super) fn to_go(mode: u32) -> u32 {
    let kind = match mode & KIND {
        0o040_000 => GO_DIRECTORY,
        0o120_000 => GO_SYMLINK,
        0o060_000 => GO_DEVICE,
        0o020_000 => GO_DEVICE | GO_CHARACTER_DEVICE,
        0o010_000 => GO_FIFO,
        0o140_000 => GO_SOCKET,
        _ => 0,
    };
    SPECIAL
        .iter()
        .filter(|(_, kernel)| mode & kernel != 0)
        .fold(kind | mode & PERMISSIONS, |all, (go, _)| all | go)
}

/// What chmod(2) is to be given; kinds are left out. 0 stands for `default`: clients that send no mode mean none.
pub(super) fn from_go(mode: i32, default: u32) -> u32 {
    let mode = mode.cast_unsigned();
    if mode == 0 {
        return default;
    }
    SPECIAL
        .iter()
        .filter(|(go, _)| mode & go != 0)
        .fold(mode & PERMISSIONS, |all, (_, kernel)| all | kernel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_special_bits_are_go_s() {
        for (kernel, go) in [
            (0o100_644, 0o644),
            (0o040_755, 0x8000_0000 | 0o755),
            (0o041_777, 0x8010_0000 | 0o777),
            (0o104_755, 0x0080_0000 | 0o755),
            (0o102_755, 0x0040_0000 | 0o755),
            (0o120_777, 0x0800_0000 | 0o777),
            (0o010_600, 0x0200_0000 | 0o600),
            (0o140_600, 0x0100_0000 | 0o600),
            (0o060_660, 0x0400_0000 | 0o660),
            (0o020_666, 0x0420_0000 | 0o666),
        ] {
            assert_eq!(to_go(kernel), go, "{kernel:o}");
        }
    }

    #[test]
    fn what_was_read_can_be_written_back() {
        for permissions in 0..=0o7777 {
            let go = to_go(0o100_000 | permissions);
            let expected = if permissions == 0 { 0o644 } else { permissions };
            assert_eq!(from_go(go.cast_signed(), 0o644), expected);
        }
    }

    #[test]
    fn only_directories_are_directories() {
        assert!(is_directory(0o040_755));
        assert!(!is_directory(0o060_755));
        assert!(!is_directory(0o100_755));
    }
}
