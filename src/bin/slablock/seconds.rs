//! Times as they are typed: seconds, with a fraction if need be.

use std::time::Duration;

/// A time, which may be zero.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "expected seconds, such as 2.5".to_owned())?;
    // Not in the words of the standard library, which speaks of its types.
    Duration::try_from_secs_f64(seconds).map_err(|_| match seconds < 0.0 {
        true => "must not be negative".to_owned(),
        false => "expected seconds, such as 2.5; this is no number, or too large".to_owned(),
    })
}

/// A time that is not over at once.
pub fn seconds_above_zero(text: &str) -> Result<Duration, String> {
    match seconds(text)? {
        Duration::ZERO => Err("must be more than zero".to_owned()),
        lease => Ok(lease),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_with_a_fraction_and_never_negative() {
        assert_eq!(seconds("2.5"), Ok(Duration::from_millis(2_500)));
        assert_eq!(seconds("0"), Ok(Duration::ZERO));
        for nonsense in ["", "-1", "NaN", "inf", "1e30", "2,5", "2s", " 1"] {
            assert!(seconds(nonsense).is_err(), "{nonsense:?}");
        }
        assert!(seconds_above_zero("0").is_err() && seconds_above_zero("1e-10").is_err());
    }
}
