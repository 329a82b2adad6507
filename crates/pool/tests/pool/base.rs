//! The base image, built for real. Needs Debian's package archive, so it runs when asked for:
//! `cargo nextest run -p fermata-pool --run-ignored all base`.

use std::fs;
use std::process::Command;

use fermata_pool::DriverChoice;

use crate::support::{Overlay, TestPool, upper_id};

#[test]
#[ignore = "downloads Debian packages"]
fn the_base_image_is_what_sandboxes_need() {
    let mut pool = TestPool::new(DriverChoice::Btrfs);
    let certificate = pool.scratch.path().join("authority.pem");
    let mut openssl = Command::new("openssl");
    openssl
        .args("req -x509 -newkey ed25519 -nodes -subj /CN=test -keyout /dev/null -out".split(' '));
    assert!(openssl.arg(&certificate).output().unwrap().status.success());
    pool.config.extra_certificates.push(certificate.clone());
    pool.reopen();
    let mut lines = Vec::new();
    let start = std::time::Instant::now();
    let base = pool
        .base_image(&mut |line| lines.push(line.to_owned()))
        .unwrap();
    println!(
        "built in {:?}, {} bytes, {lines:?}",
        start.elapsed(),
        pool.layers().size(&base.layer).unwrap()
    );
    assert!(lines.len() > 3);
    let again = pool
        .base_image(&mut |_line| panic!("it is there already"))
        .unwrap();
    assert_eq!(again, base);
    assert_eq!(
        fs::read_dir(pool.config.directory.join("staging"))
            .unwrap()
            .count(),
        0
    );

    let upper = pool.uppers().create(&upper_id("u")).unwrap();
    let overlay = Overlay::mount(
        &pool,
        std::slice::from_ref(&base.layer),
        &upper,
        pool.scratch.path().join("root"),
    );
    let run = |script: &str| {
        let mut command = Command::new("chroot");
        command
            .arg(overlay.path())
            .args(["sh", "-c", script])
            .env_clear()
            .envs(&base.config.environment);
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "{script}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(run("python --version").starts_with("Python 3.11"));
    assert!(run("python3 --version").starts_with("Python 3.11"));
    run("pip --version && git --version && curl --version && command -v ps");
    run("python3 -m venv /tmp/venv && /tmp/venv/bin/pip --version");
    run("test ! -e /usr/lib/python3.11/EXTERNALLY-MANAGED");
    run(
        "test -f /etc/resolv.conf -a ! -L /etc/resolv.conf -a ! -s /etc/machine-id -a -d /workspace -a ! -e /etc/hostname",
    );
    let certificate = fs::read_to_string(certificate).unwrap();
    assert!(run("cat /etc/ssl/certs/ca-certificates.crt").contains(certificate.trim()));
    run("grep -rq bookworm /etc/apt/sources.list /etc/apt/sources.list.d");
    assert_eq!(
        run("locale charmap 2>/dev/null || echo UTF-8").trim(),
        "UTF-8"
    );
}
