//! Looking after a store: remove, evict, check, repair, adopt.

use std::fmt::Display;
use std::path::Path;

use slablock::CheckReport;

use crate::failure::{Failure, NO};
use crate::output::{Unwritten, print_done, print_line};
use crate::place;
use crate::sight::Sight;
use crate::text::quoted;

pub fn remove(dir: &Path, key: &[u8]) -> Result<u8, Failure> {
    let is_removed = match place::open(dir)? {
        Some(cache) => cache.remove(key)?,
        None => false,
    };
    match is_removed {
        true => Ok(0),
        false => Err(no_such_key(dir, key)),
    }
}

pub fn evict(dir: &Path, tag: &[u8]) -> Result<u8, Failure> {
    let count = match place::open(dir)? {
        Some(cache) => cache.remove_tagged(tag)?,
        None => 0,
    };
    print_done(count)?;
    Ok(0)
}

pub fn check(dir: &Path) -> Result<u8, Failure> {
    let cache = Sight::open(dir)?;
    let report = match &cache {
        Some(cache) => cache.check()?,
        None => CheckReport::default(),
    };
    let mut lines = vec![format!("store         {}", dir.display())];
    let note = cache.as_ref().and_then(Sight::note);
    lines.extend(note.map(|note| format!("{note}; leaked slots are not looked for")));
    lines.extend([
        format!("keys          {}", report.keys),
        format!("slots used    {}", report.slots_used),
        format!("slots leaked  {}", report.slots_leaked),
        format!("dead holds    {}", report.dead_holds),
    ]);
    let problem = |problem: &dyn Display| format!("problem       {problem}");
    lines.extend(report.problems.iter().map(|found| problem(found)));
    let (verdict, status) = match report.is_sound() {
        true => ("sound", 0),
        false => (
            "not sound: stop the programs that use it, then `slablock repair`",
            NO,
        ),
    };
    lines.push(verdict.to_owned());
    match print_line(lines.join("\n")) {
        // The exit status gives the verdict also to a caller that does not read the reasons.
        Ok(()) | Err(Unwritten::Unread) => Ok(status),
        Err(unwritten) => Err(Failure::new(format!("{verdict}; {unwritten}"))),
    }
}

pub fn repair(dir: &Path) -> Result<u8, Failure> {
    let report = place::repair(dir)?;
    let count = format!(
        "{} keys kept, {} lost, {} slots freed",
        report.keys_kept, report.keys_lost, report.slots_freed
    );
    let lines = report.actions.iter().map(ToString::to_string);
    let lines: Vec<String> = lines.chain([count]).collect();
    print_done(lines.join("\n"))?;
    Ok(0)
}

pub fn adopt(dir: &Path) -> Result<u8, Failure> {
    place::adopt(dir)?;
    let dir = dir.display();
    print_done(format!(
        "{dir} is a store of its own: nobody holds anything in it, and its tokens have leapt"
    ))?;
    Ok(0)
}

/// The failure of asking for a key that is not there.
pub fn no_such_key(dir: &Path, key: &[u8]) -> Failure {
    let (name, dir) = (quoted(key), dir.display());
    let why = format!("there is no key {name} in {dir}; `slablock status` lists those there are");
    Failure::with_status(NO, why)
}
