//! What was written through overlayfs is there after snapshot, clone and bake: bytes and metadata, over generations.

use std::sync::atomic::{AtomicU32, Ordering};

use fermata_pool::{Digest, DriverChoice};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::listing::{self, Strictness, assert_same};
use crate::operation::{self, Operation};
use crate::support::{Overlay, TestPool, snapshot_id, upper_id};

const GENERATIONS: usize = 4;

fn generations() -> impl Strategy<Value = Vec<Vec<Operation>>> {
    let changes = proptest::collection::vec(operation::any(), 5..40);
    proptest::collection::vec(changes, GENERATIONS)
}

/// A layer with one of everything, to be deleted, renamed and covered.
fn lower_layer(pool: &TestPool) -> Digest {
    let tree = pool.directory("lower");
    operation::one_of_everything(&tree);
    let layer = pool.layers().import_directory(&tree).unwrap();
    let mounted = pool.layers().mount(&layer).unwrap();
    assert_same(
        &listing::of(&tree, Strictness::Content),
        &listing::of(&mounted, Strictness::Content),
        "imported layer",
    );
    layer
}

fn run(driver: DriverChoice, cases: u32, strictness: Strictness) {
    let pool = TestPool::new(driver);
    let base = lower_layer(&pool);
    let case_number = AtomicU32::new(0);
    let done = AtomicU32::new(0);
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 40,
        ..Config::default()
    };
    let result = TestRunner::new(config).run(&generations(), |generations| {
        let case = case_number.fetch_add(1, Ordering::Relaxed);
        let name = |what: &str, generation: usize| format!("{what}-{case}-{generation}");
        let target = |what: &str| pool.scratch.path().join(what);
        let mut image = vec![base.clone()];
        let mut upper = pool.create_upper(&upper_id(&name("u", 0)), &image).unwrap();
        for (generation, operations) in generations.iter().enumerate() {
            let id = upper_id(&name("u", generation));
            let snapshot = snapshot_id(&name("s", generation));
            let source = Overlay::mount(&pool, &image, &upper, target("source"));
            for operation in operations {
                done.fetch_add(
                    u32::from(operation::apply(source.path(), operation)),
                    Ordering::Relaxed,
                );
            }
            let before = listing::of(source.path(), strictness);
            let before_content = listing::of(source.path(), Strictness::Content);
            pool.uppers().flush(&id).unwrap();
            pool.uppers().snapshot(&id, &snapshot).unwrap();
            // The original runs on and must not shine through.
            for operation in operations.iter().rev() {
                operation::apply(source.path(), operation);
            }
            drop(source);
            pool.uppers().delete(&id.into()).unwrap();

            let clone = upper_id(&name("u", generation + 1));
            upper = pool.uppers().clone_snapshot(&snapshot, &clone).unwrap();
            {
                let restored = Overlay::mount(&pool, &image, &upper, target("clone"));
                assert_same(&before, &listing::of(restored.path(), strictness), "clone");
            }
            // Every second generation goes on from a layer instead of the snapshot.
            if generation % 2 == 1 {
                image.insert(0, pool.bake(&snapshot).unwrap());
                pool.uppers().delete(&clone.clone().into()).unwrap();
                upper = pool.create_upper(&clone, &image).unwrap();
                let baked = Overlay::mount(&pool, &image, &upper, target("baked"));
                assert_same(
                    &before_content,
                    &listing::of(baked.path(), Strictness::Content),
                    "baked",
                );
            }
            pool.uppers().delete(&snapshot.into()).unwrap();
        }
        Ok(())
    });
    result.unwrap();
    assert!(
        done.into_inner() > cases * 20,
        "hardly any operation was possible"
    );
}

#[test]
fn btrfs_keeps_everything() {
    run(DriverChoice::Btrfs, 12, Strictness::Inodes);
}

#[test]
fn copy_keeps_everything() {
    run(DriverChoice::Copy, 6, Strictness::Holes);
}
