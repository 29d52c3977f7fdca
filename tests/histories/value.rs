//! What is set: a number, in a form that has it kept in one place or another of the store.

use std::fmt;

/// A value is known by its number, which nothing else is given, and by its form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Value {
    pub number: i64,
    pub form: Form,
}

/// Where a value is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// Decimal digits, in the key's own slot: what can be counted.
    Digits,
    /// In several slots.
    Slots,
    /// In the log, longer than a page.
    Log,
    /// In the log, longer than what is written there at once.
    Parts,
    /// Nothing that was ever set. No state has it, so no history with it is in order.
    Torn,
}

use Form::{Digits, Log, Parts, Slots, Torn};

const FORMS: [Form; 5] = [Digits, Slots, Log, Parts, Torn];
/// The number with spaces before it, so that it is no integer, and a bar.
const LINE_BYTES: usize = 21;

impl Form {
    /// How often the number is written.
    fn lines(self) -> usize {
        match self {
            Digits | Torn => 0,
            Slots => 10,
            Log => 300,
            Parts => 2_400,
        }
    }
}

impl Value {
    pub fn new(number: i64, form: Form) -> Value {
        Value { number, form }
    }

    pub fn bytes(self) -> Vec<u8> {
        match self.form {
            Digits => self.number.to_string().into_bytes(),
            form => format!("{:>20}|", self.number)
                .repeat(form.lines())
                .into_bytes(),
        }
    }

    /// Which value that is; `Torn` unless it is one to the last byte.
    pub fn of_bytes(bytes: &[u8]) -> Value {
        let form = FORMS
            .into_iter()
            .find(|form| form.lines() * LINE_BYTES == bytes.len());
        let form = form.unwrap_or(Digits);
        let head = match form {
            Digits => bytes,
            _ => bytes.get(..LINE_BYTES - 1).unwrap_or_default(),
        };
        let number = std::str::from_utf8(head).map(|text| text.trim_start().parse());
        let value = match number {
            Ok(Ok(number)) => Value::new(number, form),
            _ => Value::new(0, Torn),
        };
        match value.bytes() == bytes {
            true => value,
            false => Value::new(value.number, Torn),
        }
    }

    /// As two words of a tape. None is zeros.
    pub fn to_words(value: Option<Value>) -> [u64; 2] {
        value.map_or([0; 2], |value| [value.form as u64 + 1, value.number as u64])
    }

    pub fn of_words([form, number]: [u64; 2]) -> Option<Value> {
        let form = FORMS[form.checked_sub(1)? as usize];
        Some(Value::new(number as i64, form))
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.form {
            Digits => write!(f, "{}", self.number),
            form => write!(f, "{} ({form:?})", self.number),
        }
    }
}

pub fn shown(value: Option<Value>) -> String {
    value.map_or("nothing".to_string(), |value| value.to_string())
}

#[test]
fn values_come_back_as_they_went_in_and_nothing_else_is_one() {
    for form in [Digits, Slots, Log, Parts] {
        let value = Value::new(1_234, form);
        assert_eq!(Value::of_bytes(&value.bytes()), value);
        assert_eq!(Value::of_words(Value::to_words(Some(value))), Some(value));
        let other = Value::new(1_235, form).bytes();
        let half = value.bytes().len() / 2;
        if form != Digits {
            let mixed = [&value.bytes()[..half], &other[half..]].concat();
            assert_eq!(Value::of_bytes(&mixed).form, Torn);
        }
        assert_eq!(Value::of_bytes(&[0; 100]).form, Torn);
        assert_eq!(Value::of_bytes(&[]).form, Torn);
    }
    assert_eq!(Value::of_words(Value::to_words(None)), None);
}
