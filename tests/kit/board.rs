//! Numbers that the processes of a test share.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};

/// Numbers that all processes of a test share, outside any store: the oracle. A process that is
/// killed takes none along.
pub struct Board {
    map: MmapRaw,
}

/// Names a number on a board: its index, or an entry that a test has a name for.
pub trait Cell {
    fn index(self) -> usize;
}

impl Cell for usize {
    fn index(self) -> usize {
        self
    }
}

/// How many numbers the board of a directory has.
const CELLS: usize = 8192;

impl Board {
    /// The one in a directory, which all processes that know the directory find.
    pub fn open(dir: &Path) -> Board {
        Board::of_cells(&dir.join("board"), CELLS)
    }

    pub fn of_cells(path: &Path, cells: usize) -> Board {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .unwrap();
        Board::of_file(&file, cells)
    }

    /// For forked children: of a file without a name, as an anonymous map would be each process's
    /// own.
    pub fn unnamed(cells: usize) -> Board {
        Board::of_file(&tempfile::tempfile_in(super::memory()).unwrap(), cells)
    }

    fn of_file(file: &File, cells: usize) -> Board {
        let len = 8 * cells;
        file.set_len(len as u64).unwrap();
        let map = MmapOptions::new().len(len).map_raw(file).unwrap();
        Board { map }
    }

    pub fn cell(&self, at: impl Cell) -> &AtomicU64 {
        let at = at.index();
        assert!(at < self.map.len() / 8);
        // SAFETY: within the mapping, which is page-aligned, lives as long as this, and is seen
        // through atomics only.
        unsafe { &*self.map.as_ptr().cast::<AtomicU64>().add(at) }
    }

    pub fn get(&self, at: impl Cell) -> u64 {
        self.cell(at).load(Ordering::SeqCst)
    }

    pub fn set(&self, at: impl Cell, to: u64) {
        self.cell(at).store(to, Ordering::SeqCst);
    }

    /// Returns what there was before.
    pub fn add(&self, at: impl Cell, more: u64) -> u64 {
        self.cell(at).fetch_add(more, Ordering::SeqCst)
    }

    /// Reads, adds, writes: loses additions when two do it at once, which is the point.
    pub fn increment_badly(&self, at: impl Cell) {
        let cell = self.cell(at);
        let was = cell.load(Ordering::Relaxed);
        std::hint::spin_loop();
        cell.store(was + 1, Ordering::Relaxed);
    }
}
