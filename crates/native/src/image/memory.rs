//! Address spaces.

use serde::{Deserialize, Serialize};

/// The memory of one process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// What the kernel notes about it.
    pub layout: Layout,
    /// By address, without overlap, without `[vsyscall]`.
    pub mappings: Vec<Mapping>,
    /// BLAKE3 of the code of its `[vdso]`: the program may be in the middle of it, and has addresses in it.
    pub vdso_digest: [u8; 32],
}

/// `struct prctl_mm_map`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are those of prctl_mm_map")]
pub struct Layout {
    pub start_code: u64,
    pub end_code: u64,
    pub start_data: u64,
    pub end_data: u64,
    pub start_brk: u64,
    pub brk: u64,
    pub start_stack: u64,
    pub arg_start: u64,
    pub arg_end: u64,
    pub env_start: u64,
    pub env_end: u64,
    /// `/proc/PID/auxv`.
    pub auxiliary_vector: Vec<u64>,
    /// `/proc/PID/exe`: a path inside.
    pub executable: String,
}

/// `mmap(2)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// First address, a multiple of the page size.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// `PROT_*`.
    pub protection: u32,
    /// What is behind it.
    pub backing: Backing,
    /// It grows down (`MAP_GROWSDOWN`, the stack).
    pub grows_down: bool,
    /// `mlock(2)`: none, locked, locked on fault.
    pub locked: Option<bool>,
    /// No swap is reserved for it (`MAP_NORESERVE`).
    pub unreserved: bool,
    /// The kernel may take its pages back at any time (`MAP_DROPPABLE`); none of them is kept.
    pub droppable: bool,
    /// Advice that lasts.
    pub advice: MadviseFlags,
    /// Pages whose content is kept, by address: only of private mappings. All others are what the backing has, or zero.
    pub pages: Vec<PageRun>,
    /// Guards (`MADV_GUARD_INSTALL`): first address and one past the last of each, by address.
    pub guards: Vec<(u64, u64)>,
}

/// What is behind a mapping.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Backing {
    /// Private, nothing.
    Anonymous,
    /// A private mapping of a file.
    PrivateFile {
        /// Inside.
        path: String,
        /// In bytes.
        offset: u64,
    },
    /// A shared mapping of a file.
    SharedFile {
        /// Inside.
        path: String,
        /// In bytes.
        offset: u64,
        /// It may be made writable (`mw` of `VmFlags`), so it was opened for writing.
        writable: bool,
    },
    /// A mapping of shared memory without a name: `MAP_SHARED | MAP_ANONYMOUS`, or a memfd.
    Object {
        /// Its place in [`super::Image::shared_objects`].
        object: u32,
        /// In bytes.
        offset: u64,
        /// `MAP_SHARED`, otherwise `MAP_PRIVATE`.
        shared: bool,
    },
    /// Given by the kernel.
    Vdso(VdsoPart),
}

/// Mappings that the kernel makes by itself, by their name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum VdsoPart {
    /// `[vvar]`
    Variables,
    /// `[vvar_vclock]`
    VirtualClocks,
    /// `[vdso]`
    Code,
}

/// Lasting advice of `madvise(2)`, as `VmFlags` of smaps shows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of its own in the kernel"
)]
pub struct MadviseFlags {
    /// `MADV_DONTFORK`
    pub dont_fork: bool,
    /// `MADV_DONTDUMP`
    pub dont_dump: bool,
    /// `MADV_WIPEONFORK`
    pub wipe_on_fork: bool,
    /// `MADV_HUGEPAGE`
    pub huge_pages: bool,
    /// `MADV_NOHUGEPAGE`
    pub no_huge_pages: bool,
    /// `MADV_MERGEABLE`
    pub mergeable: bool,
    /// `MADV_SEQUENTIAL`
    pub sequential: bool,
    /// `MADV_RANDOM`
    pub random: bool,
}

/// Consecutive pages whose content follows one another in the pages file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageRun {
    /// In a mapping: the first page's address; in a [`SharedObject`]: its offset there, in bytes.
    pub start: u64,
    /// How many bytes, a multiple of the page size.
    pub bytes: u64,
    /// Where in the pages file, a multiple of the page size.
    pub offset: u64,
}

/// Shared memory that no file system has a name for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedObject {
    /// Its name if it is of `memfd_create(2)`; none for `MAP_SHARED | MAP_ANONYMOUS`.
    pub memfd_name: Option<String>,
    /// Its size.
    pub bytes: u64,
    /// `F_GET_SEALS`.
    pub seals: u32,
    /// `st_mode & 0o7777`.
    pub mode: u32,
    /// Its content where that is not zero.
    pub pages: Vec<PageRun>,
}
