//! Values from the shell, and looking after a store that has many.

use std::fmt::{Display, Write};
use std::io::{ErrorKind, IsTerminal, Read, stdin, stdout};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use slablock::cache::Stats;
use slablock::{Cache, Config, Error, KeyInfo, KeyState, SetOptions};

use crate::failure::{Failure, NO};
use crate::output::{Unwritten, print, print_done, print_line};
use crate::sight::Sight;
use crate::{place, start, text};

/// One byte more than a value can have: then it is said that it has too many, and not all are read.
const INPUT_BYTES_MAX: u64 = (1 << 30) + 1;

pub const KEY_BYTES_MAX: usize = 1_024;

/// A value that is to be set.
pub struct New {
    pub key: Vec<u8>,
    /// `None`: what is on standard input.
    pub value: Option<Vec<u8>>,
    pub options: SetOptions,
}

/// How much to add to which integer.
pub struct Addend {
    pub key: Vec<u8>,
    pub by: i64,
    /// What counts if there is none.
    pub default: i64,
    /// Of one that is made because there is none.
    pub options: SetOptions,
}

/// How keys are written.
pub enum Listing {
    Lines,
    /// A zero byte after each.
    Zeros,
    Json,
}

/// What is done to the whole store, and makes a number.
pub enum Upkeep {
    Expire,
    Cull,
    Volume,
    Clear,
}

pub fn get(dir: &Path, key: &[u8]) -> Result<u8, Failure> {
    let value = match Sight::open(dir)? {
        Some(place) => place.get(key)?,
        None => check_length(key).map(|()| None)?,
    };
    match value {
        Some(value) => Ok(print(value).map(|()| 0)?),
        None => Ok(NO),
    }
}

/// Takes the value away once it is written: in a transaction, so that no other process changes or
/// pops it meanwhile, and that the death of this process leaves it. What is left: a death between
/// writing and the end of the transaction, after which it is there and written.
pub fn pop(dir: &Path, key: &[u8]) -> Result<u8, Failure> {
    ask(dir, key, |cache| pop_from(cache, key))
}

fn pop_from(cache: &Cache, key: &[u8]) -> Result<u8, Failure> {
    let mut is_written = false;
    let popped: Result<u8, Failure> = cache.transact_as(|values| {
        let Some(value) = values.get(key)? else {
            return Ok(NO);
        };
        print(value).map_err(|unwritten| still_there(key, &unwritten))?;
        is_written = true;
        values.delete(key)?;
        Ok(0)
    });
    popped.map_err(|failure| match is_written {
        true => failure.after(format_args!(
            "the value of {} was written, but may be there still",
            text::quoted(key)
        )),
        false => failure,
    })
}

fn still_there(key: &[u8], unwritten: &Unwritten) -> Failure {
    let name = text::quoted(key);
    Failure::new(format!("{unwritten}; the value of {name} is still there"))
}

pub fn delete(dir: &Path, key: &[u8]) -> Result<u8, Failure> {
    ask(dir, key, |cache| Ok(answer(cache.delete(key)?)))
}

pub fn touch(dir: &Path, key: &[u8], expire: Option<Duration>) -> Result<u8, Failure> {
    ask(dir, key, |cache| Ok(answer(cache.touch(key, expire)?)))
}

pub fn set(dir: &Path, new: &New) -> Result<u8, Failure> {
    change(dir, |cache| {
        cache.set_with(&new.key, new.bytes()?, &new.options)?;
        Ok(0)
    })
}

pub fn add(dir: &Path, new: &New) -> Result<u8, Failure> {
    change(dir, |cache| {
        Ok(answer(cache.add_with(
            &new.key,
            new.bytes()?,
            &new.options,
        )?))
    })
}

pub fn incr(dir: &Path, addend: &Addend) -> Result<u8, Failure> {
    change(dir, |cache| {
        let (by, start) = (addend.by, addend.default);
        let sum = cache.incr_with(&addend.key, by, start, &addend.options)?;
        print_done(sum)?;
        Ok(0)
    })
}

/// Does something with a key, for which the answer is no where there is no store yet.
fn ask(
    dir: &Path,
    key: &[u8],
    work: impl FnOnce(&Cache) -> Result<u8, Failure>,
) -> Result<u8, Failure> {
    match place::open(dir)? {
        Some(cache) => work(&cache),
        None => check_length(key).map(|()| NO),
    }
}

/// What a store would say of a key that cannot be one.
fn check_length(key: &[u8]) -> Result<(), Failure> {
    match key.len() {
        1..=KEY_BYTES_MAX => Ok(()),
        len => Err(Error::KeyLength { len }.into()),
    }
}

/// Does something for which a store is made if there is none.
fn change(dir: &Path, work: impl FnOnce(&Cache) -> Result<u8, Failure>) -> Result<u8, Failure> {
    place::open_or_create(dir).and_then(|cache| work(&cache))
}

fn answer(yes: bool) -> u8 {
    match yes {
        true => 0,
        false => NO,
    }
}

impl New {
    fn bytes(&self) -> Result<Vec<u8>, Failure> {
        if let Some(value) = &self.value {
            return Ok(value.clone());
        }
        let unread = |why: &dyn Display| Failure::new(format!("cannot read standard input: {why}"));
        if start::input_was_closed() {
            return Err(unread(&"it is closed; give a value, or `< /dev/null`"));
        }
        let mut value = Vec::new();
        let read = stdin().lock().take(INPUT_BYTES_MAX).read_to_end(&mut value);
        read.map_err(|error| match error.kind() {
            ErrorKind::OutOfMemory => unread(&format_args!(
                "no memory for more than the first {} bytes; allow more address space (ulimit -v)",
                value.len()
            )),
            _ => unread(&error),
        })?;
        Ok(value)
    }
}

/// What `slablock keys --json` shows. The field names are a promise to scripts.
#[derive(Serialize)]
struct Keys {
    dir: String,
    keys: Vec<Key>,
}

#[derive(Serialize)]
struct Key {
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_hex: Option<String>,
    bytes: usize,
    expires_in_seconds: Option<f64>,
    tag: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag_hex: Option<String>,
}

impl Key {
    /// `None`: it is no value.
    fn of(info: &KeyInfo) -> Option<Key> {
        let KeyState::Value { bytes, expires_in } = info.state else {
            return None;
        };
        Some(Key {
            key: text::string(&info.key),
            key_hex: text::hex_unless_utf8(&info.key),
            bytes,
            expires_in_seconds: expires_in.map(|left| left.as_secs_f64()),
            tag: info.tag.as_deref().map(text::string),
            tag_hex: info.tag.as_deref().and_then(text::hex_unless_utf8),
        })
    }
}

pub fn keys(dir: &Path, listing: Listing) -> Result<u8, Failure> {
    let mut infos = match Sight::open(dir)? {
        Some(place) => place.keys()?,
        None => Vec::new(),
    };
    infos.retain(|info| matches!(info.state, KeyState::Value { .. }));
    infos.sort_by(|a, b| a.key.cmp(&b.key));
    let is_shown = stdout().is_terminal();
    let ended_by = |end: u8| {
        let keys = infos.iter().map(|info| [&info.key[..], &[end]].concat());
        keys.collect::<Vec<_>>().concat()
    };
    match listing {
        Listing::Json => {
            let keys = Keys {
                dir: dir.to_string_lossy().into_owned(),
                keys: infos.iter().filter_map(Key::of).collect(),
            };
            let text = serde_json::to_string_pretty(&keys).map_err(Failure::new)?;
            print_line(text)?;
        }
        Listing::Zeros => print(ended_by(b'\0'))?,
        // Programs get them as they are.
        Listing::Lines if !is_shown => print(ended_by(b'\n'))?,
        Listing::Lines => {
            let lines = infos.iter().map(|info| text::plain(&info.key) + "\n");
            print(lines.collect::<String>())?;
        }
    }
    Ok(0)
}

/// What `slablock stats --json` shows. The field names are a promise to scripts.
#[derive(Serialize)]
struct Figures {
    dir: String,
    hits: u64,
    misses: u64,
    evictions: u64,
    evictions_for_keys: u64,
    evictions_for_device: u64,
    damaged: u64,
    unkept: u64,
    bytes_live: u64,
    bytes_garbage: u64,
    bytes_in_slots: u64,
    slots_used: u64,
    made_ms: u64,
    volume: u64,
    settings: SettingsOf,
}

/// The settings in force, whichever process chose them; or those of a new store.
#[derive(Serialize)]
struct SettingsOf {
    capacity: usize,
    shards: usize,
    mode: String,
    size_limit: u64,
    value_limit: u64,
    eviction: String,
    durability: String,
}

impl From<Config> for SettingsOf {
    fn from(config: Config) -> SettingsOf {
        SettingsOf {
            capacity: config.capacity,
            shards: config.shards,
            mode: format!("{:04o}", config.mode),
            size_limit: config.size_limit,
            value_limit: config.value_limit,
            eviction: config.eviction.to_string(),
            durability: config.durability.to_string(),
        }
    }
}

/// What is in the way of a cache that evicts although it is young.
fn why_evicting(figures: &Figures) -> Option<String> {
    const HOUR_MS: u64 = 3_600_000;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let is_young = u64::try_from(now.as_millis())
        .ok()?
        .checked_sub(figures.made_ms)?
        < HOUR_MS;
    if figures.evictions == 0 || !is_young {
        return None;
    }
    let (keys, device) = (figures.evictions_for_keys, figures.evictions_for_device);
    let why = match figures.evictions.saturating_sub(keys + device) {
        bytes if bytes >= keys.max(device) => "a larger size limit keeps more",
        _ if keys >= device => "it was made for so few keys",
        _ => "the device is full",
    };
    Some(format!("evicts within the hour it was made: {why}"))
}

pub fn stats(dir: &Path, json: bool) -> Result<u8, Failure> {
    let (stats, volume, settings) = match Sight::open(dir)? {
        Some(place) => (place.stats()?, place.volume()?, place.config()?),
        None => (Stats::default(), 0, Config::default()),
    };
    let figures = Figures {
        dir: dir.to_string_lossy().into_owned(),
        hits: stats.hits,
        misses: stats.misses,
        evictions: stats.evictions,
        evictions_for_keys: stats.evictions_for_keys,
        evictions_for_device: stats.evictions_for_device,
        damaged: stats.damaged,
        unkept: stats.unkept,
        bytes_live: stats.bytes_live,
        bytes_garbage: stats.bytes_garbage,
        bytes_in_slots: stats.bytes_in_slots,
        slots_used: stats.slots_used,
        made_ms: stats.made_ms,
        volume,
        settings: settings.into(),
    };
    if json {
        print_line(serde_json::to_string_pretty(&figures).map_err(Failure::new)?)?;
        return Ok(0);
    }
    let mut table = format!("store       {}\n", text::printable(&figures.dir));
    for (name, number) in [
        ("hits", figures.hits),
        ("misses", figures.misses),
        ("evictions", figures.evictions),
        ("damaged", figures.damaged),
        ("unkept", figures.unkept),
        ("bytes live", figures.bytes_live),
        ("bytes garbage", figures.bytes_garbage),
        ("in slots", figures.bytes_in_slots),
        ("volume", figures.volume),
    ] {
        // Into a string.
        let _ = writeln!(table, "{name:<11} {}", text::grouped(number));
    }
    let bytes = figures.bytes_live + figures.bytes_garbage + figures.bytes_in_slots;
    for (name, used, limit) in [
        ("bytes used", bytes, figures.settings.size_limit),
        (
            "slots used",
            figures.slots_used,
            figures.settings.capacity as u64,
        ),
    ] {
        let (used, limit) = (text::grouped(used), text::grouped(limit));
        let _ = writeln!(table, "{name:<11} {used} / {limit}");
    }
    if let Some(why) = why_evicting(&figures) {
        let _ = writeln!(table, "note        {why}");
    }
    let settings = figures.settings;
    for (name, text) in [
        ("capacity", text::grouped(settings.capacity as u64)),
        ("shards", settings.shards.to_string()),
        ("mode", settings.mode),
        ("size limit", text::grouped(settings.size_limit)),
        ("value limit", text::grouped(settings.value_limit)),
        ("eviction", settings.eviction),
        ("durability", settings.durability),
    ] {
        let _ = writeln!(table, "{name:<11} {text}");
    }
    print(table)?;
    Ok(0)
}

pub fn upkeep(dir: &Path, upkeep: Upkeep) -> Result<u8, Failure> {
    let count = |work: fn(&Cache) -> slablock::Result<usize>| -> Result<u64, Failure> {
        let cache = place::open(dir)?;
        Ok(cache.map_or(Ok(0), |cache| work(&cache))? as u64)
    };
    let number = match upkeep {
        Upkeep::Expire => count(Cache::remove_expired)?,
        Upkeep::Cull => count(Cache::cull)?,
        Upkeep::Clear => count(Cache::clear)?,
        Upkeep::Volume => {
            let volume = Sight::open(dir)?.map_or(Ok(0), |place| place.volume())?;
            print_line(volume)?;
            return Ok(0);
        }
    };
    print_done(number)?;
    Ok(0)
}
