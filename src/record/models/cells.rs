//! Values wider than a word: C1 and C2.

use loom::thread;

use super::*;
use crate::sync::AtomicU64;

struct Shared {
    selector: AtomicU64,
    cells: [Cell; 2],
}

impl Shared {
    fn new() -> Arc<Shared> {
        Arc::new(Shared {
            selector: AtomicU64::new(0),
            cells: [Cell::new(), Cell::new()],
        })
    }

    fn cells(&self) -> Cells<'_> {
        Cells {
            selector: &self.selector,
            cells: &self.cells,
        }
    }

    /// Reads once (loom would follow retries for ever), and checks that the value is that of its
    /// version.
    fn read_whole(&self) -> Option<u64> {
        let (payload, version) = self.cells().try_read()?;
        assert_eq!(payload, [version; PAYLOAD_WORDS], "a mixed value");
        Some(version)
    }
}

/// C2: two readers see values that were written, whole, and none sees an older one than it saw
/// before.
#[test]
fn cells_are_read_whole() {
    explore_with(Some(2), || {
        let shared = Shared::new();
        let reader = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                shared.read_whole();
            })
        };
        let writer = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let cells = shared.cells();
                let first = cells.write(&[1; PAYLOAD_WORDS], 0);
                cells.write(&[2; PAYLOAD_WORDS], first);
            })
        };
        let first = shared.read_whole();
        let second = shared.read_whole();
        if let (Some(first), Some(second)) = (first, second) {
            assert!(first <= second, "an older value after a newer one");
        }
        writer.join().expect("no panic");
        reader.join().expect("no panic");
        assert_eq!(shared.read_whole(), Some(2));
    });
}

#[test]
fn control_flip_releases() {
    refute(Rule::FlipReleases, "a mixed value", cells_are_read_whole);
}

#[test]
fn control_selector_acquired() {
    refute(
        Rule::SelectorAcquired,
        "a mixed value",
        cells_are_read_whole,
    );
}

#[test]
fn control_writer_fence() {
    refute(Rule::WriterFence, "a mixed value", cells_are_read_whole);
}

#[test]
fn control_reader_fence() {
    refute(Rule::ReaderFence, "a mixed value", cells_are_read_whole);
}

#[test]
fn control_selector_reread() {
    refute(Rule::SelectorReread, "a mixed value", cells_are_read_whole);
}

/// C1: a writer that dies while writing leaves the old value or the new one, for readers during and
/// after it, and the next writer continues from there.
#[test]
fn a_death_while_writing_leaves_a_whole_value() {
    for_each_death(|doom| {
        explore(move || {
            let shared = Shared::new();
            let first = shared.cells().write(&[1; PAYLOAD_WORDS], 0);
            let doomed = {
                let (shared, doom) = (Arc::clone(&shared), doom.clone());
                thread::spawn(move || doom.of(|| shared.cells().write(&[2; PAYLOAD_WORDS], first)))
            };
            shared.read_whole();
            let lived = doomed.join().expect("no panic");
            let version = shared.read_whole().expect("nobody writes");
            assert!((1..=2).contains(&version), "a third value");
            assert!(version == 2 || lived.is_none(), "a value is lost");
            let next = version + 1;
            shared.cells().write(&[next; PAYLOAD_WORDS], version);
            assert_eq!(shared.read_whole(), Some(next));
        });
    });
}

#[test]
fn control_cell_idle() {
    refute(
        Rule::CellIdle,
        "a mixed value",
        a_death_while_writing_leaves_a_whole_value,
    );
}
