//! Other boot ids, reboots, and what tokens do over them.

use std::fs;
use std::path::Path;

use slablock::{Cache, Error, Lock};

use crate::kit::layout::{BOOT_BYTES, BOOT_ID, BOOTS, STRIPE_BYTES, STRIPES};
use crate::kit::{
    Board, Place, Watchdog, bind, child, fork, in_a_namespace, reap_well, role, succeeds, unshared,
    until,
};

const LEAP: u64 = 1 << 36;
const OTHER: &str = "boots::another_boot_id_robs_nobody";

fn grant(store: &Path) -> u64 {
    let cache = Cache::open(store).unwrap();
    let lock = Lock::new(&cache, "k");
    lock.try_acquire().unwrap().expect("free").token().get()
}

/// Shows this process, and its children alone, another boot id.
fn show_another_boot(dir: &Path) -> bool {
    let id = dir.join("boot_id");
    fs::write(&id, "01234567-89ab-cdef-0123-456789abcdef\n").unwrap();
    bind(&id, Path::new("/proc/sys/kernel/random/boot_id"))
}

/// As a container has it that runs beside programs of the host.
#[test]
fn another_boot_id_robs_nobody() {
    let _watchdog = Watchdog::new("boot id");
    let Some(dir) = role(OTHER) else {
        let place = Place::new();
        let held = Cache::open(place.store()).unwrap();
        let guard = Lock::new(&held, "held").acquire().unwrap().into_owned();
        in_a_namespace(OTHER, place.root());
        guard.check().unwrap();
        guard.release().unwrap();
        return;
    };
    let dir = Path::new(&dir);
    let store = dir.join("store");
    if !show_another_boot(dir) {
        println!("skipped: no boot id can be put over that of the kernel here");
        return;
    }
    // Beside the holder, and as the first one to attach after a cleaner has been there, or a crash.
    let cache = Cache::open(&store).unwrap();
    assert!(Lock::new(&cache, "held").try_acquire().unwrap().is_none());
    drop(cache);
    println!("all told");
}

fn process_lives(pid: u64) -> bool {
    // Its parent is gone, so nobody reaps it but init; a zombie has no descriptors any more.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_survivor_with_a_lifeline_disproves_a_reboot() {
    let _watchdog = Watchdog::new("lifeline");
    let place = Place::new();
    let board = Board::open(place.root());
    let store = place.store();
    reap_well(fork(|| {
        let cache = Cache::open(&store).unwrap();
        let token = Lock::new(&cache, "held").acquire().unwrap().into_token();
        let _lifeline = cache.lifeline().unwrap();
        let survivor = fork(|| until("the test is over", || board.get(0) == 1));
        board.set(1, token.get());
        board.set(2, survivor.as_raw() as u64);
    }));
    let token = board.get(1);
    // Nobody is attached; another boot id than all that are known.
    place.poke(BOOT_ID, &[1; 16]);
    let cache = place.open();
    let lock = Lock::new(&cache, "held");
    assert!(lock.try_acquire().unwrap().is_none());
    assert_eq!(lock.holder().unwrap().unwrap().token.get(), token);
    board.set(0, 1);
    until("the survivor is gone", || !process_lives(board.get(2)));
    let next = lock.try_acquire().unwrap().unwrap().token();
    assert!(next.get() < token + 1_000, "no leap");
}

/// Host and container take turns, with nobody there in between.
#[test]
fn turns_of_host_and_container_leap_once() {
    const NAME: &str = "boots::turns_of_host_and_container_leap_once";
    let _watchdog = Watchdog::new("turns");
    if let Some(dir) = role(NAME) {
        let dir = Path::new(&dir);
        if !show_another_boot(dir) {
            println!("skipped: no boot id can be put over that of the kernel here");
            return;
        }
        grant(&dir.join("store"));
        println!("all told");
        return;
    }
    let place = Place::new();
    let mut tokens = vec![grant(&place.store())];
    for _ in 0..4 {
        in_a_namespace(NAME, place.root());
        tokens.push(grant(&place.store()));
    }
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
    // Once for the container's id, if there could be one.
    assert!(tokens[4] - tokens[0] < 2 * LEAP, "{tokens:?}");
    assert!(tokens[4] - tokens[1] < 1_000, "{tokens:?}");
}

const SHIFTED: &str = "boots::a_time_namespace_is_in_the_boot_of_its_machine";

/// Its clocks say that the machine has been running for two hours more.
#[test]
fn a_time_namespace_is_in_the_boot_of_its_machine() {
    let _watchdog = Watchdog::new("time namespace");
    if let Some(store) = role(SHIFTED) {
        println!("all told, and token {}", grant(Path::new(&store)));
        return;
    }
    let place = Place::new();
    let first = grant(&place.store());
    let shifted = ["--time", "--monotonic", "7200", "--boottime", "7200"];
    let inner = child(SHIFTED, place.store().to_str().unwrap());
    let Some(command) = unshared(&shifted, "true", &inner) else {
        println!("skipped: no time namespace to be had here");
        return;
    };
    let next = format!("all told, and token {}\n", first + 1);
    succeeds(command, &next);
    assert_eq!(grant(&place.store()), first + 2);
}

/// A container may show one id for ever, also when the machine under it was rebooted.
#[test]
fn an_id_with_another_moment_is_another_boot() {
    let place = Place::new();
    let before = grant(&place.store());
    let moment: [u8; 8] = place.peek(BOOTS + 16);
    let earlier = u64::from_le_bytes(moment) - 60_000;
    place.poke(BOOTS + 16, &earlier.to_le_bytes());
    let after = grant(&place.store());
    assert!(after >= before + LEAP);
    // One entry for one id.
    assert_eq!(place.word(BOOTS + BOOT_BYTES + 16), 0);
    assert!(grant(&place.store()) < after + 1_000);
}

/// More boots than the header remembers, and all that a number of sequences allows.
#[test]
fn tokens_never_fall_and_at_last_are_used_up() {
    let place = Place::new();
    let mut last = grant(&place.store());
    for boot in 1..20_u8 {
        place.poke(BOOT_ID, &[boot; 16]);
        let next = grant(&place.store());
        assert!(next >= last + LEAP, "{next} {last}");
        last = next;
    }
    // As after 16,000 more: there is room for one more leap, but not for that and grants.
    let end = (1_u64 << 50) - 2 * LEAP;
    for stripe in 0..64 {
        place.poke(
            STRIPES + stripe * STRIPE_BYTES as u64 + 32,
            &end.to_le_bytes(),
        );
    }
    place.poke(BOOT_ID, &[99; 16]);
    for _ in 0..3 {
        assert_error!(
            Cache::open(place.store()),
            Error::Corrupt { .. },
            ["tokens are used up"]
        );
    }
}

#[test]
fn who_has_a_held_store_open_is_not_robbed_by_a_first_one_of_another_boot() {
    const NAME: &str =
        "boots::who_has_a_held_store_open_is_not_robbed_by_a_first_one_of_another_boot";
    let _watchdog = Watchdog::new("first");
    if let Some(store) = role(NAME) {
        let cache = Cache::open(&store).unwrap();
        assert!(Lock::new(&cache, "held").try_acquire().unwrap().is_none());
        println!("all told");
        return;
    }
    let place = Place::new();
    let cache = place.open();
    let guard = Lock::new(&cache, "held").acquire().unwrap().into_owned();
    place.poke(BOOT_ID, &[1; 16]);
    succeeds(child(NAME, place.store().to_str().unwrap()), "all told");
    guard.check().unwrap();
}
