//! The directory of the database: created, and locked against other processes.
//!
//! Every error at the start is a sentence that names the directory and what to do.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow};
use redb::{DatabaseError, StorageError, backends::FileBackend};

/// The database file.
const DATABASE: &str = "paddock.redb";
/// The database file while it is created, so that a crash leaves no partial database.
const UNFINISHED: &str = "paddock.redb.new";
/// The file that is locked while a process uses the directory.
const LOCK: &str = "lock";

/// A directory that only this process uses.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// The operating system releases the lock with the process, however it ends.
    _lock: File,
}

/// Only the owner may read conversations.
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options.read(true).write(true).mode(0o600)
}

impl Directory {
    /// Creates the directory if it does not exist, and locks it.
    ///
    /// # Errors
    /// A sentence, also when another process uses the directory.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("DATA_DIR: cannot make the directory {shown}"))?;
        let lock = private(&mut OpenOptions::new())
            .create(true)
            .truncate(false)
            .open(path.join(LOCK))
            .with_context(|| format!("DATA_DIR: cannot write in {shown}"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(anyhow!(
                    "DATA_DIR: another process uses {shown}; give each process a directory of its own, or share \
                     state with REDIS_URL"
                ));
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("DATA_DIR: cannot lock {shown}"));
            }
        }
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// The database file; an empty database if there is none yet.
    pub(super) fn database(&self) -> Result<FileBackend, DatabaseError> {
        let path = self.path.join(DATABASE);
        if !path.try_exists()? {
            self.make(&path)?;
        }
        FileBackend::new(private(&mut OpenOptions::new()).open(path)?)
    }

    fn make(&self, path: &Path) -> Result<(), DatabaseError> {
        let unfinished = self.path.join(UNFINISHED);
        let file = private(&mut OpenOptions::new()).create(true).truncate(true).open(&unfinished)?;
        redb::Builder::new().create_with_backend(FileBackend::new(file)?)?.close()?;
        std::fs::rename(unfinished, path)?;
        // The file's name must be on disk as well before a turn is acknowledged.
        File::open(&self.path)?.sync_all()?;
        Ok(())
    }

    /// The error for the operator when the database does not open.
    pub(super) fn explain(&self, error: &DatabaseError) -> anyhow::Error {
        let file = self.path.join(DATABASE);
        let file = file.display();
        if let DatabaseError::Storage(StorageError::Io(error)) = error
            && error.kind() != io::ErrorKind::InvalidData
            && error.kind() != io::ErrorKind::UnexpectedEof
        {
            return anyhow!("DATA_DIR: cannot use {file}: {error}");
        }
        anyhow!(
            "DATA_DIR: {file} is damaged or no database of this version ({error}); move it away to begin anew, or \
             put a copy in its place"
        )
    }
}
