//! Where the programs that come with this one are.

use std::path::{Path, PathBuf};

use super::error::ServeError;

/// Beside the running program, or where distributions put programs that nobody calls by hand.
pub(super) fn find(name: &'static str) -> Result<PathBuf, ServeError> {
    // The link in /proc says where the program really is, also when it was started through a symlink.
    let own = std::env::current_exe().map_err(|source| ServeError::File {
        action: "resolve",
        path: PathBuf::from("/proc/self/exe"),
        source,
    })?;
    find_beside(&own, name)
}

fn find_beside(own: &Path, name: &'static str) -> Result<PathBuf, ServeError> {
    let beside = own.parent().unwrap_or_else(|| Path::new("/"));
    let searched = vec![beside.to_owned(), beside.join("../libexec/fermata")];
    searched
        .iter()
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
        .ok_or(ServeError::Program { name, searched })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_beside_or_in_libexec() {
        let prefix = tempfile::tempdir().unwrap();
        let own = prefix.path().join("bin/fermata");
        let libexec = prefix.path().join("libexec/fermata");
        std::fs::create_dir_all(own.parent().unwrap()).unwrap();
        std::fs::create_dir_all(&libexec).unwrap();
        find_beside(&own, "fermata-shim").unwrap_err();
        std::fs::write(libexec.join("fermata-shim"), "").unwrap();
        let found = find_beside(&own, "fermata-shim").unwrap();
        assert_eq!(
            found.canonicalize().unwrap(),
            libexec.join("fermata-shim").canonicalize().unwrap()
        );
        std::fs::write(own.with_file_name("fermata-shim"), "").unwrap();
        assert_eq!(
            find_beside(&own, "fermata-shim").unwrap(),
            own.with_file_name("fermata-shim")
        );
    }
}
