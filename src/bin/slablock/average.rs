//! `slablock average`: a running average from the shell.

use std::path::Path;
use std::time::Duration;

use slablock::{Averager, Cache};

use crate::failure::{Failure, NO};
use crate::output::print_line;
use crate::sight::Sight;
use crate::{place, text};

/// A value to add, and to what.
pub struct Addition {
    pub key: Vec<u8>,
    pub value: f64,
    pub expire: Option<Duration>,
    pub tag: Option<Vec<u8>>,
}

pub fn add(dir: &Path, addition: &Addition) -> Result<u8, Failure> {
    let cache = place::open_or_create(dir)?;
    let averager = averager(&cache, &addition.key);
    let averager = addition.expire.into_iter().fold(averager, Averager::expire);
    let averager = addition.tag.iter().fold(averager, Averager::tag);
    averager.add(addition.value)?;
    Ok(0)
}

pub fn get(dir: &Path, key: &[u8]) -> Result<u8, Failure> {
    let cache = Sight::open(dir)?.ok_or_else(|| no_values(key))?;
    let mean = cache.mean(key)?;
    print_line(mean.ok_or_else(|| no_values(key))?)?;
    Ok(0)
}

pub fn pop(dir: &Path, key: &[u8]) -> Result<u8, Failure> {
    let cache = place::open(dir)?.ok_or_else(|| no_values(key))?;
    let mean = averager(&cache, key).pop()?;
    let mean = mean.ok_or_else(|| no_values(key))?;
    // The average is popped before it is printed: adders continue, however slow the reader is.
    print_line(mean).map_err(|unwritten| {
        let name = text::quoted(key);
        Failure::new(format!(
            "the average of {name} was {mean} and starts anew, but {unwritten}"
        ))
    })?;
    Ok(0)
}

fn averager(cache: &Cache, key: &[u8]) -> Averager {
    Averager::new(cache, key)
}

fn no_values(key: &[u8]) -> Failure {
    let name = text::quoted(key);
    let why = format!("{name} has no values yet; add one with `slablock average add`");
    Failure::with_status(NO, why)
}
