//! How things are written for people: keys, times, counts, complaints.

use std::fmt::Display;
use std::io::{self, Write};
use std::time::Duration;

/// One line on standard error. A closed standard error is no reason to fail.
pub fn complain(message: impl Display) {
    let _ = writeln!(io::stderr().lock(), "slablock: {message}");
}

/// A key or tag between quotes, with everything escaped that could play with a terminal.
pub fn quoted(bytes: &[u8]) -> String {
    format!("\"{}\"", plain(bytes))
}

/// A key or tag that cannot play with a terminal.
pub fn plain(bytes: &[u8]) -> String {
    let mut plain = String::new();
    for chunk in bytes.utf8_chunks() {
        plain.push_str(&printable(chunk.valid()));
        for byte in chunk.invalid() {
            plain.push_str(&format!("\\x{byte:02x}"));
        }
    }
    plain
}

/// `text` with its control characters escaped.
pub fn printable(text: &str) -> String {
    let escaped = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    text.chars().map(escaped).collect()
}

/// The text itself, or with the stray bytes escaped if it is not UTF-8.
pub fn string(bytes: &[u8]) -> String {
    match str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => plain(bytes),
    }
}

/// All bytes, for what [`string`] does not show as it is.
pub fn hex_unless_utf8(bytes: &[u8]) -> Option<String> {
    let hex = || bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    str::from_utf8(bytes).is_err().then(hex)
}

/// At most `chars_max` characters of `text`, the last an ellipsis if some were left off.
pub fn shortened(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        None => text.to_owned(),
        Some(_) => text.chars().take(chars_max - 1).chain(['…']).collect(),
    }
}

/// A time in the two largest units that say something.
pub fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => format!("{} ms", time.as_millis()),
        1..60 => format!("{:.1} s", time.as_secs_f64()),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// A number with its thousands apart: 1,234,567.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_two_units() {
        let told = [
            (0.25, "250 ms"),
            (1.26, "1.3 s"),
            (61.0, "1 min 1 s"),
            (7_260.0, "2 h 1 min"),
            (90_000.0, "1 d 1 h"),
        ];
        for (seconds, text) in told {
            assert_eq!(span(Duration::from_secs_f64(seconds)), text);
        }
    }

    #[test]
    fn escape_sequences_and_stray_bytes_are_shown_not_sent() {
        assert_eq!(quoted(b"a\x1b[2J\xffz"), "\"a\\u{1b}[2J\\xffz\"");
    }

    #[test]
    fn thousands_stand_apart() {
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }

    #[test]
    fn long_texts_end_in_an_ellipsis() {
        assert_eq!(shortened("abcd", 4), "abcd");
        assert_eq!(shortened("abcde", 4), "abc…");
    }
}
