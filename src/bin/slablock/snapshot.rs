//! The state of a store at one moment, as the JSON of `slablock status` shows it.
//!
//! The field names are a promise to scripts: add some, but never rename or remove one.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use slablock::cache::Summary;
use slablock::{Holder, KeyInfo, KeyState};

use crate::{holder, text};

#[derive(Serialize)]
pub struct Snapshot {
    pub dir: String,
    pub keys: Vec<Key>,
}

#[derive(Serialize)]
pub struct Key {
    pub key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_hex: Option<String>,
    pub kind: String,
    pub tag: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag_hex: Option<String>,
    pub waiters: usize,
    /// Only of a semaphore.
    pub permits: Option<Permits>,
    pub holders: Vec<HolderOf>,
    /// Only of an averager that has values.
    pub average: Option<Average>,
    /// Only of a value.
    pub value: Option<Value>,
}

#[derive(Serialize)]
pub struct Permits {
    pub total: u32,
    pub used: u32,
    pub available: u32,
}

#[derive(Serialize)]
pub struct HolderOf {
    pub pid: u32,
    pub tid: u32,
    pub program: String,
    /// `None` when the process is gone or in another PID namespace.
    pub command: Option<String>,
    pub alive: bool,
    pub held_seconds: Option<f64>,
    pub lease_left_seconds: Option<f64>,
    pub token: u64,
}

#[derive(Serialize)]
pub struct Average {
    pub mean: f64,
    pub count: u64,
    pub total: f64,
    pub min: f64,
    pub max: f64,
}

#[derive(Serialize)]
pub struct Value {
    pub bytes: usize,
    /// `None`: it stays.
    pub expires_in_seconds: Option<f64>,
}

impl Snapshot {
    pub fn new(dir: &Path, mut keys: Vec<KeyInfo>) -> Snapshot {
        keys.sort_by(|a, b| a.key.cmp(&b.key));
        Snapshot {
            dir: dir.to_string_lossy().into_owned(),
            keys: keys.iter().map(Key::new).collect(),
        }
    }
}

impl Key {
    fn new(info: &KeyInfo) -> Key {
        Key {
            key: text::string(&info.key),
            key_hex: text::hex_unless_utf8(&info.key),
            kind: info.kind.to_string(),
            tag: info.tag.as_deref().map(text::string),
            tag_hex: info.tag.as_deref().and_then(text::hex_unless_utf8),
            waiters: info.waiters,
            permits: permits(&info.state),
            holders: holder::holders(info).iter().map(HolderOf::new).collect(),
            average: average(&info.state),
            value: value(&info.state),
        }
    }
}

impl HolderOf {
    fn new(holder: &Holder) -> HolderOf {
        HolderOf {
            pid: holder.pid,
            tid: holder.tid,
            program: text::printable(&holder.program),
            command: holder::command_line(holder),
            alive: holder.alive,
            held_seconds: holder.held_for.map(|time| time.as_secs_f64()),
            lease_left_seconds: holder.lease_left.map(|time| time.as_secs_f64()),
            token: holder.token.get(),
        }
    }

    /// Whether its lease ran out, so that the next acquirer gets what it holds.
    pub fn is_expired(&self) -> bool {
        self.lease_left_seconds == Some(Duration::ZERO.as_secs_f64())
    }
}

fn permits(state: &KeyState) -> Option<Permits> {
    match *state {
        KeyState::Semaphore {
            value, available, ..
        } => Some(Permits {
            total: value,
            used: value.saturating_sub(available),
            available,
        }),
        _ => None,
    }
}

fn value(state: &KeyState) -> Option<Value> {
    match *state {
        KeyState::Value { bytes, expires_in } => Some(Value {
            bytes,
            expires_in_seconds: expires_in.map(|left| left.as_secs_f64()),
        }),
        _ => None,
    }
}

fn average(state: &KeyState) -> Option<Average> {
    let KeyState::Averager {
        summary: Some(summary),
    } = state
    else {
        return None;
    };
    let &Summary {
        count,
        total,
        mean,
        min,
        max,
        ..
    } = summary;
    Some(Average {
        mean,
        count,
        total,
        min,
        max,
    })
}
