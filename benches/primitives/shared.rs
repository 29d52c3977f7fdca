//! A file mapped as words that several processes see, for what the library is compared with.

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use memmap2::MmapRaw;

/// A whole file.
pub struct Words {
    map: MmapRaw,
}

impl Words {
    /// Maps what is there.
    pub fn map(path: &Path) -> Words {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .expect("the file is there");
        Words {
            map: MmapRaw::map_raw(&file).expect("a file can be mapped"),
        }
    }

    /// Makes a file of `bytes` zeros, and maps it.
    pub fn create(path: &Path, bytes: u64) -> Words {
        let file = std::fs::File::create(path).expect("a file can be made");
        file.set_len(bytes).expect("it can grow");
        Words::map(path)
    }

    /// The word at `offset`.
    pub fn at(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.map.len());
        #[allow(unsafe_code)]
        // SAFETY: within the mapping, which lives as long as `self`, and aligned, by the assertion;
        // an atomic may be changed by other processes at any time.
        unsafe {
            &*self.map.as_ptr().add(offset).cast()
        }
    }

    /// Where `offset` lies, for what is not a word.
    pub fn ptr(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.map.len());
        self.map.as_mut_ptr().wrapping_add(offset)
    }
}
