//! Deaths: between operations, and in the midst of each kind.

use slablock::fuzzing::{self, Reached};
use slablock::{Cache, Error};

use super::super::input::Input;
use super::{World, key};

const REACHED: [Reached; 3] = [Reached::Latched, Reached::Prepared, Reached::Done];

impl World {
    pub(super) fn die(&mut self, cache: &Cache, key: &[u8], input: &mut Input) {
        let how = input.byte();
        let reached = REACHED[usize::from(how >> 4) % 3];
        match how % 4 {
            1 => self.die_setting(cache, key, reached, input),
            2 => self.die_in_transaction(cache, how >> 6, reached, input),
            3 => {
                let died = fuzzing::die_computing(cache, key);
                died.expect("the turn of a key is not the key");
            }
            _ => fuzzing::die(cache),
        }
    }

    fn die_setting(&mut self, cache: &Cache, key: &[u8], reached: Reached, input: &mut Input) {
        let made = self.made(input);
        let died = fuzzing::die_setting(cache, key, &made.value, &made.options(), reached);
        if self.agree(key, died).is_some() && reached == Reached::Done {
            self.model.insert(key.to_vec(), made.held());
        }
    }

    fn die_in_transaction(&mut self, cache: &Cache, more: u8, reached: Reached, input: &mut Input) {
        let all: Vec<_> = (0..=more)
            .map(|_| (key(input.byte()), self.made(input)))
            .collect();
        let values: Vec<_> = all
            .iter()
            .map(|(key, made)| (key.clone(), made.value.clone(), made.options()))
            .collect();
        match fuzzing::die_in_transaction(cache, &values, reached) {
            Ok(()) if reached == Reached::Done => {
                let held = all.into_iter().map(|(key, made)| (key, made.held()));
                self.model.extend(held);
            }
            Ok(()) => {}
            Err(Error::KindMismatch { .. }) => {
                assert!(all.iter().any(|(key, _)| self.locks.contains(key)));
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}
