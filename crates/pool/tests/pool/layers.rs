//! Layers: named by content, mounted once, damage noticed; and the system's own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use fermata_pool::{Digest, DriverChoice, PoolError};

use crate::support::{Overlay, TestPool, upper_id};

fn tree(pool: &TestPool, name: &str, content: &[u8]) -> PathBuf {
    let tree = pool.directory(name);
    fs::write(tree.join("file"), content).unwrap();
    let epoch = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
    fs::File::open(tree.join("file"))
        .unwrap()
        .set_times(epoch)
        .unwrap();
    fs::File::open(&tree).unwrap().set_times(epoch).unwrap();
    tree
}

fn file(pool: &TestPool, digest: &Digest) -> PathBuf {
    pool.config
        .directory
        .join("layers")
        .join(format!("{digest}.erofs"))
}

fn mounts_at(path: &Path) -> usize {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table
        .lines()
        .filter(|line| line.split(' ').nth(4) == path.to_str())
        .count()
}

#[test]
fn equal_trees_are_one_layer() {
    let pool = TestPool::new(DriverChoice::Copy);
    let first = pool
        .layers()
        .import_directory(&tree(&pool, "a", b"x"))
        .unwrap();
    let second = pool
        .layers()
        .import_directory(&tree(&pool, "b", b"x"))
        .unwrap();
    let third = pool
        .layers()
        .import_directory(&tree(&pool, "c", b"y"))
        .unwrap();
    assert_eq!(first, second);
    assert_ne!(first, third);
    assert!(pool.layers().list().unwrap().contains(&first));
    pool.layers().verify(&first).unwrap();
    assert_eq!(
        pool.layers().size(&first).unwrap(),
        fs::metadata(file(&pool, &first)).unwrap().len()
    );
}

#[test]
fn a_layer_is_mounted_once_and_found_again() {
    let mut pool = TestPool::new(DriverChoice::Copy);
    let layer = pool
        .layers()
        .import_directory(&tree(&pool, "a", b"x"))
        .unwrap();
    let path = pool.layers().mount(&layer).unwrap();
    assert_eq!(pool.layers().mount(&layer).unwrap(), path);
    pool.reopen();
    assert_eq!(pool.layers().mount(&layer).unwrap(), path);
    assert_eq!(fs::read(path.join("file")).unwrap(), b"x");
    fs::write(path.join("file"), "y").unwrap_err();
    assert_eq!(mounts_at(&path), 1);

    pool.layers().remove(&layer).unwrap();
    assert_eq!(mounts_at(&path), 0);
    assert!(
        matches!(pool.layers().mount(&layer), Err(PoolError::LayerNotFound { digest }) if digest == layer)
    );
    assert!(matches!(
        pool.layers().remove(&layer),
        Err(PoolError::LayerNotFound { .. })
    ));
}

#[test]
fn closing_unmounts_what_an_earlier_process_mounted() {
    let mut pool = TestPool::new(DriverChoice::Copy);
    let layer = pool
        .layers()
        .import_directory(&tree(&pool, "a", b"x"))
        .unwrap();
    let path = pool.layers().mount(&layer).unwrap();
    pool.reopen();
    pool.close();
    assert_eq!(mounts_at(&path), 0);
}

#[test]
fn a_damaged_layer_is_noticed() {
    let pool = TestPool::new(DriverChoice::Copy);
    let layer = pool
        .layers()
        .import_directory(&tree(&pool, "a", &[9; 50_000]))
        .unwrap();
    let path = file(&pool, &layer);
    let good = fs::read(&path).unwrap();

    fs::write(&path, &good[..good.len() / 2]).unwrap();
    assert!(
        matches!(pool.layers().mount(&layer), Err(PoolError::DamagedLayer { digest, .. }) if digest == layer)
    );
    assert!(matches!(
        pool.layers().verify(&layer),
        Err(PoolError::DamagedLayer { .. })
    ));

    let mut flipped = good;
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    fs::write(&path, flipped).unwrap();
    assert!(matches!(
        pool.layers().verify(&layer),
        Err(PoolError::DamagedLayer { .. })
    ));

    // Made anew, it is whole again.
    assert_eq!(
        pool.layers()
            .import_directory(&tree(&pool, "b", &[9; 50_000]))
            .unwrap(),
        layer
    );
    pool.layers().verify(&layer).unwrap();
}

#[test]
fn a_name_that_a_layer_cannot_hold_is_refused() {
    let pool = TestPool::new(DriverChoice::Copy);
    let tree = pool.directory("tree");
    fs::create_dir(tree.join("inner")).unwrap();
    let long = tree.join("inner").join("l".repeat(255));
    fs::write(&long, "").unwrap();
    let refused = pool.layers().import_directory(&tree);
    assert!(matches!(refused, Err(PoolError::NameTooLong { path }) if path == long));
}

#[test]
fn no_image_hides_the_agent_and_every_image_keeps_its_modes() {
    let pool = TestPool::new(DriverChoice::Btrfs);
    let image = pool.directory("image");
    for (name, mode) in [("etc", 0o711), (".fermata", 0o777)] {
        fs::create_dir(image.join(name)).unwrap();
        fs::set_permissions(image.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::write(image.join(".fermata/agent"), "false").unwrap();
    fs::write(image.join(".fermata/other"), "false").unwrap();
    let layer = pool.layers().import_directory(&image).unwrap();
    let upper = pool.uppers().create(&upper_id("u")).unwrap();
    let overlay = Overlay::mount(&pool, &[layer], &upper, pool.scratch.path().join("root"));

    let root = overlay.path();
    assert_eq!(
        fs::read_to_string(root.join(".fermata/agent")).unwrap(),
        "the agent"
    );
    assert_eq!(fs::read_dir(root.join(".fermata")).unwrap().count(), 1);
    let modes = [
        ("", 0o755),
        (".fermata/agent", 0o755),
        ("etc", 0o711),
        ("tmp", 0o1777),
        ("root", 0o700),
        ("mnt/code", 0o755),
    ];
    for (name, mode) in modes {
        assert_eq!(
            fs::metadata(root.join(name)).unwrap().permissions().mode() & 0o7777,
            mode,
            "{name}"
        );
    }
    for name in ["proc", "sys", "dev", "run", "workspace"] {
        assert!(root.join(name).is_dir(), "{name}");
    }
}

#[test]
fn a_new_agent_is_a_new_layer_and_the_old_one_stays() {
    let mut pool = TestPool::new(DriverChoice::Copy);
    // Uppermost the agent's, lowest the skeleton.
    let old = pool.stack(&[]);
    pool.reopen();
    assert_eq!(pool.stack(&[]), old);
    fs::write(&pool.config.agent, "a better agent").unwrap();
    pool.reopen();
    assert_ne!(pool.stack(&[])[0], old[0]);
    assert_eq!(pool.stack(&[])[1], old[1]);
    let path = pool.layers().mount(&old[0]).unwrap();
    assert_eq!(
        fs::read_to_string(path.join(".fermata/agent")).unwrap(),
        "the agent"
    );
}
