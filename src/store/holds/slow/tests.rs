use std::sync::Arc;

use super::*;
use crate::Cache;
use crate::store::holds::locate::Finder;

/// It looked up the key, and was held up before it looked at the hold.
#[test]
fn a_waiter_takes_no_hold_of_a_key_that_came_into_the_slot_since() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path()).unwrap();
    let lock = |key: &[u8]| Handle::new(Arc::clone(&cache.store), Tenant::Lock, key, 1);
    let handle = lock(b"k");
    let (spot, _) = Finder(&handle).locate_or_create(Patience::Forever).unwrap();
    assert!(cache.remove("k").unwrap());
    let other = lock(b"other");
    let (others, _) = Finder(&other).locate_or_create(Patience::Forever).unwrap();
    assert_eq!(others.id, spot.id);
    let look = |handle: &Handle, spot: SlotRef| {
        let process = handle.store().process().unwrap();
        let mut looking = Looking {
            handle,
            at: Here { process, spot },
            first: 0,
            held: &mut HeldBy::default(),
            predecessor: None,
        };
        let hold = Acquirer(handle).hold(spot, 0, 0).map(|hold| (0, hold));
        look_at_all([hold], false, &mut looking).unwrap()
    };
    assert_eq!(look(&handle, spot), Look::Gone);
    assert!(matches!(look(&other, others), Look::Taken(0, _)));
}
