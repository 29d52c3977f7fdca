//! Law: what the command line reads and writes by itself comes back as it went in. Times are
//! refused unless they are seconds that a clock can count, and are kept to the nanosecond that
//! their digits say; of a key and its `key_hex`, one is the bytes; what is shown has no character
//! in it that plays with a terminal. Everything else is parsed by `clap` and written by
//! `serde_json`.

#[path = "../../src/bin/slablock/seconds.rs"]
mod seconds;
#[path = "../../src/bin/slablock/text.rs"]
mod text;

use std::time::Duration;

use super::input::Input;

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.byte() % 3 {
        0 => times(&String::from_utf8_lossy(input.rest())),
        1 => numbers(&mut input),
        _ => texts(input.byte(), input.rest()),
    }
}

fn times(typed: &str) {
    let lease = seconds::seconds_above_zero(typed);
    match seconds::seconds(typed) {
        Ok(time) => {
            let number: f64 = typed.parse().expect("a number");
            assert!(number.is_finite() && number >= 0.0, "{typed:?}: {time:?}");
            let apart = (time.as_secs_f64() - number).abs();
            assert!(apart <= 1e-9 + number * f64::EPSILON, "{typed:?}: {time:?}");
            assert_eq!(lease.ok(), (!time.is_zero()).then_some(time));
        }
        Err(why) => {
            assert!(!why.is_empty() && !why.contains('\n') && lease.is_err());
        }
    }
}

fn numbers(input: &mut Input) {
    // Up to three months, which a float has to the nanosecond.
    let time = Duration::from_nanos(input.u64() >> 11);
    let typed = format!("{}.{:09}", time.as_secs(), time.subsec_nanos());
    let read = seconds::seconds(&typed).expect("seconds");
    assert!(
        read.abs_diff(time) <= Duration::from_nanos(1),
        "{typed}: {read:?}"
    );
    let told = text::span(time);
    assert!(
        told.len() < 24 && !told.contains(char::is_control),
        "{told}"
    );
    let number = input.u64();
    let grouped = text::grouped(number);
    assert_eq!(grouped.replace(',', "").parse(), Ok(number), "{grouped}");
    let parts: Vec<_> = grouped.split(',').map(str::len).collect();
    assert!(
        parts[1..].iter().all(|len| *len == 3) && (1..=3).contains(&parts[0]),
        "{grouped}"
    );
}

fn texts(most: u8, bytes: &[u8]) {
    let back = match text::hex_unless_utf8(bytes) {
        Some(hex) => unhex(&hex),
        None => text::string(bytes).into_bytes(),
    };
    assert_eq!(back, bytes);
    for shown in [text::plain(bytes), text::quoted(bytes)] {
        assert!(!shown.contains(char::is_control), "{shown:?}");
        assert!(shown.len() <= 2 + 10 * bytes.len(), "{shown:?}");
        let most = usize::from(most.max(1));
        let short = text::shortened(&shown, most);
        let (all, kept) = (shown.chars().count(), short.chars().count());
        assert_eq!(kept, all.min(most), "{short:?}");
        assert!(all > most || short == shown, "{short:?}");
    }
}

fn unhex(hex: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex digits");
    (0..hex.len()).step_by(2).map(digit).collect()
}
