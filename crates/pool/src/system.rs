//! The two layers that every sandbox has beside its image's.
//!
//! ```text
//!   agent      /.fermata/agent, opaque: no image can put its own in the way
//!   …          the image's layers
//!   skeleton   /proc /sys /dev /tmp … for images that lack them
//! ```
//!
//! overlayfs takes the mode of a merged directory from the uppermost layer, so the agent's layer has no other directory, and
//! the skeleton is lowest. Both are named by content: a new agent gives a new layer, old snapshots keep theirs.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::SystemTime;

use rustix::fs::{XattrFlags, lsetxattr};

use crate::driver::SYSTEM_DIRECTORY;
use crate::durable::{self, Temporary};
use crate::id::Digest;
use crate::layer::LayerStore;
use crate::recipe::{Made, Recipes};
use crate::{PoolError, Result};

/// Part of the recipes: raise it when what this module makes changes.
const VERSION: u32 = 1;

const SKELETON: [(&str, u32); 10] = [
    ("dev", 0o755),
    ("etc", 0o755),
    ("mnt", 0o755),
    ("mnt/code", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("workspace", 0o755),
];

/// The layers above and below an image's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemLayers {
    /// Uppermost: `/.fermata/agent`.
    pub agent: Digest,
    /// Lowest: the directories that every root filesystem needs.
    pub skeleton: Digest,
}

impl SystemLayers {
    pub(crate) fn open(
        agent: &Path,
        staging: &Path,
        layers: &LayerStore,
        recipes: &Recipes,
    ) -> Result<Self> {
        let program = fs::read(agent).map_err(PoolError::file("read", agent))?;
        let agent_recipe = blake3::Hasher::new()
            .update(b"agent")
            .update(&VERSION.to_le_bytes())
            .update(&program)
            .finalize();
        let skeleton_recipe = blake3::Hasher::new()
            .update(b"skeleton")
            .update(&VERSION.to_le_bytes())
            .finalize();
        let make = |name: &str, recipe: blake3::Hash, fill: &dyn Fn(&Path) -> Result<()>| {
            let recipe = Digest::from(recipe);
            if let Some(made) = recipes.find::<()>(&recipe, layers)? {
                return Ok(made.layer);
            }
            let tree = Temporary::new(staging.join(name));
            directory(tree.path(), 0o755)?;
            fill(tree.path())?;
            age(tree.path())?;
            let layer = layers.import_directory(tree.path())?;
            recipes.note(
                &recipe,
                &Made {
                    layer: layer.clone(),
                    notes: (),
                },
            )?;
            Ok(layer)
        };
        Ok(Self {
            agent: make("agent", agent_recipe, &|tree| fill_agent(tree, &program))?,
            skeleton: make("skeleton", skeleton_recipe, &fill_skeleton)?,
        })
    }
}

fn fill_agent(tree: &Path, program: &[u8]) -> Result<()> {
    let system = tree.join(SYSTEM_DIRECTORY);
    directory(&system, 0o755)?;
    // overlayfs.rst: an opaque directory hides those of the layers below.
    lsetxattr(&system, "trusted.overlay.opaque", b"y", XattrFlags::empty())
        .map_err(PoolError::file("set attribute of", &system))?;
    let file = system.join("agent");
    fs::write(&file, program).map_err(PoolError::file("write", &file))?;
    mode(&file, 0o755)?;
    age(&file)?;
    age(&system)
}

fn fill_skeleton(tree: &Path) -> Result<()> {
    for (name, mode) in SKELETON {
        directory(&tree.join(name), mode)?;
    }
    // Children first: they are later in the list than the directory they are in.
    SKELETON
        .iter()
        .rev()
        .try_for_each(|(name, _mode)| age(&tree.join(name)))
}

fn directory(path: &Path, permissions: u32) -> Result<()> {
    durable::create_directory(path)?;
    mode(path, permissions)
}

fn mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(PoolError::file("set mode of", path))
}

/// The same content must give the same layer, whenever it is made.
fn age(path: &Path) -> Result<()> {
    let times = FileTimes::new()
        .set_accessed(SystemTime::UNIX_EPOCH)
        .set_modified(SystemTime::UNIX_EPOCH);
    File::open(path)
        .and_then(|file| file.set_times(times))
        .map_err(PoolError::file("set times of", path))
}
