//! A new store, byte by byte, against the tables of docs/format.md. The numbers are written out
//! here once more, on purpose.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};
use slablock::{Averager, BoundedSemaphore, Lock};

use crate::kit::{LONG, Place, bounded};

const PARTICIPANTS: u64 = 45_056;
const BUCKETS: u64 = 569_344;
const STATES: u64 = 585_728;
const SLOTS: u64 = 589_824;
const BLOCK_STATES: u64 = 1_376_256;
const BLOCKS: u64 = 1_380_352;

pub fn boot_id() -> [u8; 16] {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).unwrap().to_le_bytes()
}

/// When the machine was booted, by the wall clock.
pub fn boot_moment_ms() -> u64 {
    let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    (now - Duration::from(since_boot)).as_millis() as u64
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap().as_millis() as u64
}

fn number(place: &Place, at: u64) -> u32 {
    u32::from_le_bytes(place.peek(at))
}

#[test]
fn a_new_header_is_as_the_design_says() {
    bounded(|| {
        let place = Place::new();
        let cache = place.open();
        assert_eq!(place.peek(0), *b"slablock");
        let words = [8, 12, 16, 20, 56].map(|at| number(&place, at));
        assert_eq!(words, [1, 0, 16_777_216, 0, 0]);
        assert_ne!(place.peek(24), [0; 16], "the seed");
        assert_ne!(place.peek(40), [0; 16], "the id");
        let part: [u8; 64] = place.peek(0);
        assert_eq!(number(&place, 60), crc32(&part[..60]));
        assert_eq!(place.peek::<64>(2_048), part);
        assert_eq!(place.peek(128), *b"slready1");
        assert_eq!(place.peek(328), boot_id());
        assert!(place.word(344).abs_diff(boot_moment_ms()) < 2_000);
        assert_eq!(place.peek(352), [0; 168], "no other boots");
        let files = [
            (136, "slab"),
            (160, "attach"),
            (184, "beacons"),
            (208, "stripes"),
        ];
        for (at, name) in files {
            let file = fs::metadata(place.store().join(name)).unwrap();
            let born = file.created().unwrap().duration_since(UNIX_EPOCH).unwrap();
            let words = [at, at + 8, at + 16].map(|at| place.word(at));
            assert_eq!(
                words,
                [file.dev(), file.ino(), born.as_nanos() as u64],
                "{name}"
            );
            assert!(name == "slab" || file.len() == 0, "{name}");
        }
        let counts = [232, 236, 240].map(|at| number(&place, at));
        assert_eq!(counts, [32, 0, 0]);
        // Of kinds that are not known to all there are none, and nothing was evicted.
        assert_eq!(place.word(600), 0);
        assert!(place.word(608).abs_diff(now_ms()) < 60_000);
        assert_eq!(place.peek(616), [0; 16]);
        assert_eq!(place.peek(3_072), [0; 1_024], "one row in each stripe");
        assert_eq!(place.slab_len(), SLOTS);
        // The participant that this process is: the first number, given once, in use.
        let me = PARTICIPANTS + 128;
        assert_eq!(place.word(me), 1 << 32 | 1);
        assert_eq!(number(&place, me + 8), std::process::id());
        let name: [u8; 6] = place.peek(me + 40);
        assert_eq!(name, *b"golden");
        drop(cache);
    });
}

/// In memory: a file system on a disk that has the file in many pieces counts a block of its own
/// for it.
#[test]
fn a_new_store_takes_as_much_as_the_design_says() {
    let memory = std::path::Path::new("/dev/shm");
    if !memory.is_dir() {
        println!("skipped: there is no file system in memory");
        return;
    }
    let place = Place::below(memory);
    let cache = place.open();
    let slab = fs::metadata(place.slab()).unwrap();
    assert_eq!(slab.blocks() * 512, 69_632);
    drop(cache);
}

#[test]
fn new_keys_lie_as_the_design_says() {
    bounded(|| {
        let place = Place::new();
        let cache = place.open();
        let lock = Lock::new(&cache, "nine byte").tag("tag").lease(LONG);
        drop(lock.acquire().unwrap());
        let guard = lock.acquire().unwrap();
        let semaphore = BoundedSemaphore::new(&cache, "s", 6);
        let permit = semaphore.acquire().unwrap();
        let average = Averager::new(&cache, "average");
        average.add(2.0).unwrap();
        average.add(5.0).unwrap();
        // Tokens begin at the floor, which is microseconds since 2025.
        let floor = place.word(4_096 + 32);
        let since_2025 = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_micros() as u64
            - 1_735_689_600_000_000;
        assert!(since_2025 - floor < 60_000_000, "{floor}");
        // A lock of two tokens, held by participant 1, until a moment of `CLOCK_MONOTONIC` in 64
        // us.
        assert_eq!(place.word(SLOTS), 1 << 52 | (floor + 2));
        let deadline = place.word(SLOTS + 8);
        assert_eq!(deadline >> 44, (floor + 2) & 0xf_ffff);
        let uptime = fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        let end = (deadline & ((1 << 44) - 1)) as f64 * 64e-6;
        assert!(
            (end - uptime - LONG.as_secs_f64()).abs() < 60.0,
            "{end} {uptime}"
        );
        let stamp = place.word(SLOTS + 16);
        assert_eq!(stamp >> 56, (floor + 2) & 0xff);
        let thread = nix::unistd::gettid().as_raw() as u64;
        assert_eq!(stamp >> 34 & 0x3f_ffff, thread);
        // Life 0, a lock, with 9 bytes of key and 3 of tag, in the next whole word.
        assert_eq!(place.word(SLOTS + 24), 3 << 47 | 9 << 36 | 1 << 32);
        assert_eq!([36, 44].map(|at| number(&place, SLOTS + at)), [0, 1]);
        assert_eq!(place.peek(SLOTS + 56), [0; 40], "of waiting");
        assert_eq!(
            place.peek(SLOTS + 96),
            *b"nine byte\0\0\0\0\0\0\0tag\0\0\0\0\0"
        );
        // Found by its hash: some bucket leads to slot 0, which is link 1.
        let heads = (0..4_096).map(|bucket| number(&place, BUCKETS + 4 * bucket));
        let mut links: Vec<u32> = heads.filter(|link| *link != 0).collect();
        links.extend((0..3).map(|slot| number(&place, SLOTS + 192 * slot + 36)));
        links.retain(|link| *link != 0);
        links.sort_unstable();
        assert_eq!(links, [1, 2, 3]);
        // A semaphore: its permits are in blocks 0 and 1; permit 0 has the ticket.
        let slot = SLOTS + 192;
        assert_eq!(place.word(slot + 24), 1 << 36 | 3 << 32);
        assert_eq!(place.word(slot + 48), 6);
        assert_eq!(place.word(BLOCKS), 1 << 52 | (floor + 1));
        assert_eq!(place.word(BLOCKS + 24), floor + 1);
        assert_eq!(place.word(BLOCKS + 32), 0);
        // An average: written twice, so in force is cell 0; the key follows the cells.
        let slot = SLOTS + 2 * 192;
        assert_eq!(place.word(slot + 24), 7 << 36 | 4 << 32);
        assert_eq!(place.word(slot + 48) as u32, 2);
        let cell = |at| place.word(slot + 56 + at);
        let values = [cell(0), cell(8), cell(16), cell(24), cell(32), cell(40)];
        let number_of = |value: f64| value.to_bits();
        let expected = [2, number_of(7.0), 0, number_of(2.0), number_of(5.0), 0];
        assert_eq!(values, expected);
        assert_eq!(cell(48) >> 32, 2);
        assert_eq!(place.peek(slot + 56 + 112), *b"average\0");
        assert_eq!(place.peek(STATES), [1, 1, 1, 0]);
        assert_eq!(place.peek(BLOCK_STATES), [1, 1, 0, 0]);
        let counts = [232, 236, 240].map(|at| number(&place, at));
        assert_eq!(counts, [32, 256, 32]);
        assert_eq!(place.slab_len(), BLOCKS + 4_096);
        drop((guard, permit));
        assert_eq!(place.word(SLOTS), floor + 2);
    });
}

/// CRC-32 as zlib has it, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let all = bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            crc >> 1 ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    });
    !all
}
