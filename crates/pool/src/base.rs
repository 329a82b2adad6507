//! The base image: a Debian root with Python, made from the distribution's packages by `mmdebstrap`.

mod sources;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use self::sources::Sources;
use crate::durable::{self, Temporary};
use crate::id::Digest;
use crate::image::ImageConfig;
use crate::layer::LayerStore;
use crate::recipe::{Made, Recipes};
use crate::{PoolError, Result, mount, program};

/// Part of the recipe: raise it when what this module makes changes.
const VERSION: u32 = 2;
/// Its Python is 3.11.
const RELEASE: &str = "bookworm";

/// Beside the essential ones and apt.
const PACKAGES: [&str; 14] = [
    "ca-certificates",
    "curl",
    "git",
    "iproute2",
    "jq",
    "less",
    "netbase",
    "procps",
    "python-is-python3",
    "python3",
    "python3-pip",
    "python3-venv",
    "unzip",
    "xz-utils",
];

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An image to start sandboxes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseImage {
    /// Names what it was made from; equal recipes give one image.
    pub recipe: Digest,
    /// The root filesystem, but for the system layers.
    pub layer: Digest,
    /// Defaults for its processes.
    pub config: ImageConfig,
}

/// What a build works with.
#[derive(Debug)]
pub(crate) struct Kitchen<'a> {
    pub(crate) staging: &'a Path,
    pub(crate) layers: &'a LayerStore,
    pub(crate) recipes: &'a Recipes,
    pub(crate) extra_certificates: &'a [PathBuf],
}

/// Finds the base image or makes it.
pub(crate) fn build(kitchen: &Kitchen<'_>, progress: &mut dyn FnMut(&str)) -> Result<BaseImage> {
    let sources = Sources::of_host(Path::new("/etc/apt"), RELEASE)?;
    let certificates = kitchen
        .extra_certificates
        .iter()
        .map(|path| fs::read(path).map_err(PoolError::file("read", path)))
        .collect::<Result<Vec<_>>>()?;
    let recipe = recipe(&sources, &certificates);
    if let Some(made) = kitchen
        .recipes
        .find::<ImageConfig>(&recipe, kitchen.layers)?
    {
        return Ok(BaseImage {
            recipe,
            layer: made.layer,
            config: made.notes,
        });
    }

    let root = BuildTree::new(kitchen.staging.join(format!("base-{}", std::process::id())));
    install(&root, &sources, kitchen.staging, progress)?;
    progress("settling the base image");
    settle(root.path())?;
    trust(root.path(), &certificates)?;
    progress("packing the base image");
    let layer = kitchen.layers.import_directory(root.path())?;
    let made = Made {
        layer,
        notes: config(),
    };
    kitchen.recipes.note(&recipe, &made)?;
    progress("the base image is ready");
    Ok(BaseImage {
        recipe,
        layer: made.layer,
        config: made.notes,
    })
}

fn config() -> ImageConfig {
    let environment = [("PATH", PATH), ("LANG", "C.UTF-8"), ("HOME", "/root")];
    ImageConfig {
        environment: environment
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        working_directory: "/workspace".to_owned(),
    }
}

fn recipe(sources: &Sources, certificates: &[Vec<u8>]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    let mut add = |part: &[u8]| {
        // With the length, so that no two lists of parts look alike.
        hasher
            .update(&(part.len() as u64).to_le_bytes())
            .update(part);
    };
    add(&VERSION.to_le_bytes());
    add(RELEASE.as_bytes());
    PACKAGES.iter().for_each(|package| add(package.as_bytes()));
    add(sources.paragraphs.as_bytes());
    add(sources.lines.as_bytes());
    certificates.iter().for_each(|certificate| add(certificate));
    hasher.finalize().into()
}

fn install(
    root: &BuildTree,
    sources: &Sources,
    staging: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<()> {
    let mut command = Command::new("mmdebstrap");
    command.args(["--mode=root", "--format=directory", "--variant=apt"]);
    command.arg(format!("--include={}", PACKAGES.join(",")));
    command.args([
        "--aptopt=Acquire::Languages \"none\"",
        "--aptopt=Acquire::Retries \"3\"",
    ]);
    // An image that is not whole is not used, so nothing needs fsync here; nor does apt in a sandbox.
    command.arg("--dpkgopt=force-unsafe-io");
    // As Debian's own slim images do; licences stay.
    for pattern in [
        "path-exclude=/usr/share/doc/*",
        "path-include=/usr/share/doc/*/copyright",
        "path-exclude=/usr/share/man/*",
    ] {
        command.arg(format!("--dpkgopt={pattern}"));
    }
    command.arg(RELEASE).arg(root.path());
    let mut files = Vec::new();
    if sources.is_complete(RELEASE) {
        for (name, text) in [
            ("host.sources", &sources.paragraphs),
            ("host.list", &sources.lines),
        ] {
            if !text.is_empty() {
                let file = Temporary::new(staging.join(name));
                fs::write(file.path(), text).map_err(PoolError::file("write", file.path()))?;
                command.arg(file.path());
                files.push(file);
            }
        }
    }
    // Without a source mmdebstrap takes Debian's default, security and updates included.
    program::run_with_progress("mmdebstrap", &mut command, &mut |line| {
        if let Some(step) = line.strip_prefix("I: ") {
            progress(step);
        }
    })
}

/// Takes away what is the host's or this build's own, and adds what sandboxes expect.
fn settle(root: &Path) -> Result<()> {
    // pip must be able to install: in a sandbox the system's Python is the user's (PEP 668).
    for path in glob(&root.join("usr/lib"), "python3", "EXTERNALLY-MANAGED")? {
        durable::remove(&path)?;
    }
    for name in [
        "etc/hostname",
        "etc/resolv.conf",
        "etc/machine-id",
        "var/lib/dbus/machine-id",
        "var/cache/ldconfig/aux-cache",
    ] {
        durable::remove(&root.join(name))?;
    }
    for directory in [
        "var/log",
        "var/cache/apt",
        "var/lib/apt/lists",
        "tmp",
        "run",
    ] {
        empty(&root.join(directory))?;
    }
    fs::create_dir_all(root.join("var/cache/apt/archives/partial"))
        .map_err(PoolError::file("make", root))?;
    fs::create_dir_all(root.join("var/lib/apt/lists/partial"))
        .map_err(PoolError::file("make", root))?;
    // Empty means: make one at the first boot (machine-id(5)).
    write(&root.join("etc/machine-id"), "", 0o444)?;
    // A regular file, because every sandbox gets its own written over it.
    write(&root.join("etc/resolv.conf"), "", 0o644)?;
    write(
        &root.join("etc/hosts"),
        "127.0.0.1 localhost\n::1 localhost\n",
        0o644,
    )?;
    write(&root.join("etc/default/locale"), "LANG=C.UTF-8\n", 0o644)?;
    durable::create_directory(&root.join("workspace"))?;
    let python = root.join("usr/bin/python");
    if fs::symlink_metadata(&python).is_err() {
        symlink("python3", &python).map_err(PoolError::file("link", &python))?;
    }
    Ok(())
}

fn trust(root: &Path, certificates: &[Vec<u8>]) -> Result<()> {
    if certificates.is_empty() {
        return Ok(());
    }
    for (number, certificate) in certificates.iter().enumerate() {
        // update-ca-certificates(8) takes files of this ending from this place.
        let path = root.join(format!(
            "usr/local/share/ca-certificates/extra-{number}.crt"
        ));
        fs::write(&path, certificate).map_err(PoolError::file("write", &path))?;
    }
    let mut command = Command::new("chroot");
    command
        .arg(root)
        .arg("update-ca-certificates")
        .env_clear()
        .env("PATH", PATH);
    program::run("chroot", &mut command)
}

/// Files of this name in subdirectories that start so.
fn glob(directory: &Path, prefix: &str, name: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(PoolError::file("list", directory))? {
        let entry = entry.map_err(PoolError::file("list", directory))?;
        let path = entry.path().join(name);
        if entry.file_name().to_string_lossy().starts_with(prefix) && path.exists() {
            found.push(path);
        }
    }
    Ok(found)
}

fn empty(directory: &Path) -> Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(PoolError::file("list", directory)(error)),
    };
    for entry in entries {
        durable::remove(&entry.map_err(PoolError::file("list", directory))?.path())?;
    }
    Ok(())
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    durable::create_directory(path.parent().unwrap_or(path))?;
    fs::write(path, text).map_err(PoolError::file("write", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(PoolError::file("set mode of", path))
}

/// The tree being built. Removed in the end, but only when nothing of the host is mounted in it any more.
#[derive(Debug)]
struct BuildTree {
    path: PathBuf,
}

impl BuildTree {
    fn new(path: PathBuf) -> Self {
        Self { path }
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for BuildTree {
    fn drop(&mut self) {
        if let Err(error) =
            mount::unmount_below(&self.path).and_then(|()| durable::remove(&self.path))
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a base build stays; the next start removes it"
            );
        }
    }
}
