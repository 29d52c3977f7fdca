use super::*;
use crate::Options;
use crate::store::home::open;
use crate::sync::AtomicU64;

const LIMIT: u64 = 4 << 20;

fn open_with_limit() -> (tempfile::TempDir, std::sync::Arc<Store>) {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::default().size_limit(LIMIT);
    let store = open::open_apart(dir.path(), options.settings()).unwrap();
    (dir, store)
}

/// All setters were told that there is room, as by `make_room`. One may be refused
/// because of room that another has reserved and gives back a moment later: what is left
/// then is there for the next setter.
#[test]
fn setters_promised_the_same_room_never_take_more_and_leave_what_is_refused() {
    let (_dir, store) = open_with_limit();
    let room = Room::ToSet(LIMIT);
    let lens = [300, 9_000, 70_000, 200_000, 600_000, 20_000];
    let fill = |len: usize| {
        let value = vec![7; len];
        let append = || Segments(&store).append(b"key", &[], &value, room).unwrap();
        std::iter::from_fn(append).count() as u64 * record_bytes(3, 0, len)
    };
    let mut appended: u64 = std::thread::scope(|scope| {
        let setters = lens.map(|len| scope.spawn(move || fill(len)));
        setters.map(|setter| setter.join().unwrap()).iter().sum()
    });
    let check = |appended: u64| {
        let (usage, segments) = Segments(&store).usage_and_segments().unwrap();
        // What was left unused is garbage, and counts for the rest of a page each.
        assert!(usage.bytes - usage.garbage <= LIMIT, "{usage:?}");
        assert!(appended <= LIMIT, "{appended}");
        let log = &store.process().unwrap().log;
        let sizes = Segments(&store).segments().unwrap().into_iter();
        let there = sizes.map(|s| log.size_of(s.number).unwrap().unwrap().1);
        assert!(there.sum::<u64>() <= LIMIT + slack_of(segments));
        segments as u64
    };
    check(appended);
    // Alone the shortest continues until there is no room for it: nothing is lost but the pages
    // at both ends of what was refused, once for each setter, and the heads of segments.
    appended += fill(300);
    let segments = check(appended);
    let refused = lens.len() as u64 + 1;
    let most_lost = refused * 2 * PAGE + segments * SEGMENT_HEADER_BYTES + record_bytes(3, 0, 300);
    assert!(LIMIT - appended <= most_lost, "{}", LIMIT - appended);
    // What is moved has a segment more.
    let moved = Segments(&store).append(b"key", &[], &[7; 200_000], Room::ToMove);
    assert!(moved.unwrap().is_some());
}

/// A setter has reserved room that is too much, and is stopped before it has counted. Another
/// setter that asks meanwhile is refused, too, and has the room as soon as it is given back.
#[test]
fn a_setter_refused_for_room_that_is_given_back_has_it_then() {
    let (_dir, store) = open_with_limit();
    let room = Room::ToSet(LIMIT);
    let append = |len: usize| {
        let value = vec![7; len];
        Segments(&store).append(b"key", &[], &value, room).unwrap()
    };
    for _ in 0..6 {
        append(600_000).unwrap();
    }
    let bytes = record_bytes(3, 0, 600_000);
    let log = &store.process().unwrap().log;
    let place = Segments(&store).reserve(log, bytes).unwrap();
    assert!(!Segments(&store).is_within(room).unwrap());
    assert_eq!(append(300), None);
    Collector(&store).count_unused(Garbage { place, bytes });
    assert!(append(300).is_some());
}

/// A setter that counts while another reserves room and gives it back at once must not miss the
/// room and yet deduct it: it would keep room of its own that is too much (G5).
#[test]
fn a_count_is_never_less_than_what_stays() {
    let (_dir, store) = open_with_limit();
    // Far behind in the table, so that counting takes its time before it is there.
    let last = &store.slab.header().last_segment;
    last.fetch_add(u64::from(SEGMENTS) - 100, Ordering::Relaxed);
    let log = &store.process().unwrap().log;
    let bytes = record_bytes(3, 0, 20_000);
    Segments(&store).reserve(log, bytes).unwrap();
    // Pages at both ends of what was given back stay, so it grows.
    let stays = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let refused = scope.spawn(|| {
            for _ in 0..3_000 {
                stays.store(Segments(&store).usage().unwrap().bytes, Ordering::Release);
                let place = Segments(&store).reserve(log, bytes).unwrap();
                Collector(&store).count_unused(Garbage { place, bytes });
            }
        });
        while !refused.is_finished() {
            let least = stays.load(Ordering::Acquire);
            let counted = Segments(&store).usage().unwrap().bytes;
            assert!(counted >= least, "{counted}, and {least} stay");
        }
    });
}
