//! What the kernel can do.

use std::path::Path;

use fermata_sys::seccomp::{install_filter, pack};

use super::{Check, in_thread};

/// `cgroup.kill` came with it, the youngest of the things that cannot be done without.
const OLDEST: (u32, u32) = (5, 14);

/// `BPF_RET | BPF_K` of `linux/bpf_common.h` and `SECCOMP_RET_ALLOW` of `linux/seccomp.h`: lets everything through.
const RETURN: u16 = 0x06;
const ALLOW: u32 = 0x7fff_0000;

pub(super) fn root() -> Check {
    const NAME: &str = "root";
    let user = rustix::process::geteuid();
    if user.is_root() {
        Check::ok(NAME, "this is root")
    } else {
        Check::fail(NAME, format!("this is user {}", user.as_raw()))
            .advise("run with sudo; what follows may fail for the same reason")
    }
}

pub(super) fn version() -> Check {
    const NAME: &str = "kernel";
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    match numbers(&release) {
        Some(found) if found >= OLDEST => Check::ok(NAME, release),
        Some(_) => Check::fail(NAME, release).advise(format!(
            "Linux {}.{} or later is needed",
            OLDEST.0, OLDEST.1
        )),
        None => Check::warning(NAME, format!("{release}: of unknown age")),
    }
}

fn numbers(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|letter: char| !letter.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

pub(super) fn time_namespaces() -> Check {
    const NAME: &str = "time namespaces";
    let made = in_thread(|| {
        fermata_sys::clone::unshare_time_for_children().map_err(|error| error.to_string())
    });
    match made {
        Ok(()) => Check::ok(NAME, "one was made"),
        Err(error) => Check::fail(NAME, error).advise("a kernel with CONFIG_TIME_NS is needed"),
    }
}

pub(super) fn seccomp() -> Check {
    const NAME: &str = "seccomp";
    match in_thread(|| {
        install_filter(&[pack(RETURN, 0, 0, ALLOW)]).map_err(|error| error.to_string())
    }) {
        Ok(()) => Check::ok(NAME, "a filter was installed"),
        Err(error) => {
            Check::fail(NAME, error).advise("a kernel with CONFIG_SECCOMP_FILTER is needed")
        }
    }
}

pub(super) fn userfaultfd() -> Check {
    const NAME: &str = "userfaultfd";
    if Path::new("/proc/sys/vm/unprivileged_userfaultfd").exists() {
        Check::info(NAME, "there; for memory snapshots later")
    } else {
        Check::info(NAME, "not there; nothing needs it yet")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_all_distributions_are_understood() {
        assert_eq!(numbers("6.12.9-amd64"), Some((6, 12)));
        assert_eq!(numbers("5.14-rc1"), Some((5, 14)));
        assert_eq!(numbers("unknown"), None);
    }
}
