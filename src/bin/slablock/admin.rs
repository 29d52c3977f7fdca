//! Looking after a store: remove, evict, check, repair.

use std::{
    io::{Write, stdout},
    path::Path,
};

use crate::{
    failure::{FAILED, Failure},
    place::Place,
    text::quoted,
};

pub fn remove(dir: &Path, key: &[u8]) -> Result<u8, Failure> {
    match Place::open(dir)?.shard(key).remove(key)? {
        true => Ok(0),
        false => Err(no_such_key(dir, key)),
    }
}

pub fn evict(dir: &Path, tag: &[u8]) -> Result<u8, Failure> {
    let count = Place::open(dir)?.evict(tag)?;
    writeln!(stdout(), "{count}")?;
    Ok(0)
}

pub fn check(dir: &Path) -> Result<u8, Failure> {
    let report = Place::open(dir)?.check()?;
    let mut out = stdout().lock();
    writeln!(out, "store         {}", dir.display())?;
    writeln!(out, "keys          {}", report.keys)?;
    writeln!(out, "slots used    {}", report.slots_used)?;
    writeln!(out, "slots leaked  {}", report.slots_leaked)?;
    writeln!(out, "dead holds    {}", report.dead_holds)?;
    for problem in &report.problems {
        writeln!(out, "problem       {problem}")?;
    }
    if report.is_sound() {
        writeln!(out, "sound")?;
        return Ok(0);
    }
    writeln!(
        out,
        "not sound: stop the programs that use it, then `slablock repair`"
    )?;
    Ok(FAILED)
}

pub fn repair(dir: &Path) -> Result<u8, Failure> {
    let report = Place::repair(dir)?;
    let mut out = stdout().lock();
    for action in &report.actions {
        writeln!(out, "{action}")?;
    }
    writeln!(
        out,
        "{} keys kept, {} lost, {} slots freed",
        report.keys_kept, report.keys_lost, report.slots_freed
    )?;
    Ok(0)
}

/// The failure of asking for a key that is not there.
pub fn no_such_key(dir: &Path, key: &[u8]) -> Failure {
    let (name, dir) = (quoted(key), dir.display());
    Failure::new(format!(
        "there is no key {name} in {dir}; `slablock status` lists those there are"
    ))
}
