//! `slablock average`: a running average from the shell.

use std::{
    io::{Write, stdout},
    path::Path,
    time::Duration,
};

use slablock::Averager;

use crate::{failure::Failure, place::Place, text};

/// A value to add, and to what.
pub struct Addition {
    pub key: Vec<u8>,
    pub value: f64,
    pub expire: Option<Duration>,
    pub tag: Option<Vec<u8>>,
}

pub fn add(dir: &Path, addition: &Addition) -> Result<u8, Failure> {
    let place = Place::open_or_create(dir)?;
    let averager = averager(&place, &addition.key);
    let averager = addition.expire.into_iter().fold(averager, Averager::expire);
    let averager = addition.tag.iter().fold(averager, Averager::tag);
    averager.add(addition.value)?;
    Ok(0)
}

pub fn get(dir: &Path, key: &[u8]) -> Result<u8, Failure> {
    let mean = averager(&Place::open(dir)?, key).get()?;
    print(mean, key)
}

pub fn pop(dir: &Path, key: &[u8]) -> Result<u8, Failure> {
    let mean = averager(&Place::open(dir)?, key).pop()?;
    print(mean, key)
}

fn averager(place: &Place, key: &[u8]) -> Averager {
    Averager::new(place.shard(key), key)
}

fn print(mean: Option<f64>, key: &[u8]) -> Result<u8, Failure> {
    let mean = mean.ok_or_else(|| {
        let name = text::quoted(key);
        Failure::new(format!(
            "{name} has no values yet; add one with `slablock average add`"
        ))
    })?;
    writeln!(stdout(), "{mean}")?;
    Ok(0)
}
