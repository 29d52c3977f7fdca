//! Which figures of all, and what each is meant to be.

use super::super::markdown::digits;
use super::super::{Cell, Report, Row};
use super::{AtLeast, AtMost, Figure, Target, figure};
use crate::values::OWN_LIMIT;

const LOCK: &str = "slablock Lock";
const KEPT: &str = "slablock Lock, kept";
const LMDB: &str = "LMDB (heed)";
const LMDB_MAP: &str = "LMDB, writable map";
const SQLITE: &str = "SQLite (rusqlite)";
const IN_PLACE: &str = "files, in place";
const RENAMED: &str = "files, renamed";
const ANEW: &str = "files, fs::write";
/// The column of the largest store.
const MANY: &str = "1,000,000 keys";

pub fn pairs(report: &Report) -> Vec<Option<Figure>> {
    let pair = |what: &str, name: &str, target| {
        let ratio = report.median("pair", name, "beside the bare pair")?;
        let time = report.median("pair", name, "time")?;
        let shown = format!("{} x ({})", digits(ratio), time_of(time));
        Some(figure(what, shown, ratio, target))
    };
    let at_most = |most| AtMost(most, "x");
    vec![
        pair("`Lock` acquire + release", LOCK, at_most(2.0)),
        pair(
            "the same, with a lease",
            "slablock Lock, leased",
            at_most(5.0),
        ),
        pair(
            "`RLock`, one level deeper",
            "slablock RLock, nested",
            at_most(1.5),
        ),
        pair("`RLock` from free to free", "slablock RLock", Target::None),
        pair(
            "`BoundedSemaphore(8)`",
            "slablock BoundedSemaphore",
            at_most(2.5),
        ),
        pair("`Averager::add`", "slablock Averager", at_most(5.0)),
        pair("`Averager::get`", "slablock Averager, get", at_most(2.0)),
        pair(
            "for comparison: robust mutex",
            "robust mutex (pthread)",
            Target::None,
        ),
        pair("`File::lock`", "File::lock (std)", Target::None),
        pair(
            "`Lock` of Python's diskcache",
            "diskcache Lock",
            Target::None,
        ),
    ]
}

pub fn others(report: &Report) -> Vec<Option<Figure>> {
    vec![
        hot(report),
        takeover(report),
        waiter(report),
        open(report),
        first(report),
    ]
    .into_iter()
    .chain(many(report))
    .chain(commands(report))
    .collect()
}

fn hot(report: &Report) -> Option<Figure> {
    let rate = |name| report.median("hot-4", name, "throughput");
    let ratio = rate(LOCK)? / rate("robust mutex (pthread)")?;
    let what = "4 processes on one hot key, beside a robust process-shared mutex";
    Some(figure(
        what,
        format!("{} x its throughput", digits(ratio)),
        ratio,
        AtLeast(1.5, "x"),
    ))
}

fn takeover(report: &Report) -> Option<Figure> {
    let of = |column| report.median("takeover", LOCK, column);
    let (ms, kills) = (of("99 %")?, of("kills")?);
    let what = format!(
        "takeover from a holder killed with SIGKILL, 99th percentile of {}",
        digits(kills)
    );
    Some(figure(
        what,
        format!("{} ms", digits(ms)),
        ms,
        AtMost(10.0, "ms"),
    ))
}

fn waiter(report: &Report) -> Option<Figure> {
    let ms = report.median("waiter", LOCK, "processor time")?;
    let shown = format!("{} ms", digits(ms));
    Some(figure(
        "processor time of a waiter, per second",
        shown,
        ms,
        AtMost(1.0, "ms"),
    ))
}

fn open(report: &Report) -> Option<Figure> {
    let of = |column| report.median("open", "slablock", column);
    let (others, alone) = (of("open, others have it open")?, of("open")?);
    let shown = format!("{}, {} us", digits(others), digits(alone));
    let what = "opening an existing store, that others have open or nobody";
    Some(figure(what, shown, others.max(alone), AtMost(150.0, "us")))
}

fn first(report: &Report) -> Option<Figure> {
    let us = report.median("keys", LOCK, "first use")?;
    Some(figure(
        "first use of a new key",
        format!("{} us", digits(us)),
        us,
        AtMost(5.0, "us"),
    ))
}

fn many(report: &Report) -> [Option<Figure>; 2] {
    let one = |what, name, target| {
        let of = |column| report.median("keys", name, column);
        let (one, many): (f64, f64) = (of("1 key")?, of(MANY)?);
        let shown = format!("{} ns, {} x", digits(many * 1e3), digits(many / one));
        Some(figure(what, shown, many / one, target))
    };
    [
        one(
            "a pair on one of 1,000,000 keys, with its handle, beside the only one",
            KEPT,
            AtMost(3.0, "x"),
        ),
        one(
            "the same, on any of them, looked up anew",
            LOCK,
            Target::None,
        ),
    ]
}

fn commands(report: &Report) -> [Option<Figure>; 2] {
    let ratio = |name| {
        let of = |name| report.median("commands", name, "start to end");
        Some(of(name)? / of("flock")?)
    };
    let one = |what, name| {
        let ratio: f64 = ratio(name)?;
        Some(figure(
            what,
            format!("{} x its time", digits(ratio)),
            ratio,
            AtMost(1.0, "x"),
        ))
    };
    [
        one(
            "`slablock run KEY -- true`, beside `flock FILE true`",
            "slablock run",
        ),
        one("the same, statically linked", "slablock run, static"),
    ]
}

pub fn values(report: &Report) -> Vec<Option<Figure>> {
    let beside = |what: &str, column: &str, other: &str, target| {
        let of = |name| report.median("values", name, column);
        let (ours, theirs) = (of("slablock")?, of(other)?);
        let times = digits(theirs / ours);
        let shown = format!("{}, {times} x as fast", time_of(ours * 1e3));
        Some(figure(what, shown, theirs / ours, target))
    };
    let at_least = |least| AtLeast(least, "x");
    let (existing, new) = ("set, existing", "set, new");
    let (read, write) = ("read 1 MiB", "write 1 MiB");
    let renamed = "writing 1 MiB, beside a file renamed into its place";
    vec![
        beside("`get`, beside LMDB", "get", LMDB, at_least(4.0)),
        limit(report, "get", LMDB),
        grown(
            report,
            "slablock",
            "`get` among 1,000,000 keys, beside 1,000",
            AtMost(3.0, "x"),
        ),
        grown(
            report,
            OWN_LIMIT,
            "what it asks of hardware and kernel, and nothing else",
            Target::None,
        ),
        beside(
            "`set` of an existing key, beside LMDB without sync",
            existing,
            LMDB,
            at_least(5.0),
        ),
        beside(
            "the same, beside its writable map",
            existing,
            LMDB_MAP,
            Target::None,
        ),
        beside(
            "`set` of a new key, beside LMDB without sync",
            new,
            LMDB,
            at_least(3.0),
        ),
        beside(
            "the same, beside its writable map",
            new,
            LMDB_MAP,
            Target::None,
        ),
        beside("`incr`, beside SQLite", "increment", SQLITE, at_least(50.0)),
        mixed(report),
        beside(
            "reading 1 MiB, beside a file",
            read,
            IN_PLACE,
            at_least(0.8),
        ),
        beside(
            "writing 1 MiB, beside `fs::write`",
            write,
            ANEW,
            at_least(0.8),
        ),
        beside(renamed, write, RENAMED, at_least(0.8)),
        beside(
            "writing 1 MiB, beside a file written over, whose readers see a mixture",
            write,
            IN_PLACE,
            at_least(0.8),
        ),
        limit(report, write, IN_PLACE),
    ]
}

/// What slablock asks of memory and of the file system, by itself: how much of it the figure above can gain.
fn limit(report: &Report, column: &str, other: &str) -> Option<Figure> {
    let of = |name| report.median("values", name, column);
    let (limit, theirs) = (of(OWN_LIMIT)?, of(other)?);
    let times = digits(theirs / limit);
    let shown = format!("{}, {times} x as fast", time_of(limit * 1e3));
    let what = "what it asks of hardware and kernel, and nothing else";
    Some(figure(what, shown, theirs / limit, Target::None))
}

fn grown(report: &Report, name: &str, what: &str, target: Target) -> Option<Figure> {
    let of = |column| report.median("values-keys", name, column);
    let (few, many) = (of("1,000 keys")?, of(MANY)?);
    let shown = format!("{}, {} x", time_of(many * 1e3), digits(many / few));
    Some(figure(what, shown, many / few, target))
}

fn mixed(report: &Report) -> Option<Figure> {
    let rate = |name| report.median("values-mixed", name, "4 processes");
    let (ours, theirs) = (rate("slablock")?, rate(LMDB)?);
    let shown = format!(
        "{} million a second, {} x",
        digits(ours / 1e3),
        digits(ours / theirs)
    );
    let what = "nine gets to a set, 4 processes, beside LMDB";
    Some(figure(what, shown, ours / theirs, AtLeast(4.0, "x")))
}

impl Report {
    /// The median in that row and column of that table.
    fn median(&self, table: &str, row: &str, column: &str) -> Option<f64> {
        let table = self.tables.iter().find(|one| one.id == table)?;
        let column = table.columns.iter().position(|one| one.name == column)?;
        // It may say how many keys it has.
        let named = |one: &&Row| {
            one.peer
                .strip_prefix(row)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(" ("))
        };
        let row = table.rows.iter().find(named)?;
        row.cells
            .get(column)
            .and_then(Cell::spread)
            .map(|spread| spread.median)
    }
}

/// In the unit that suits it.
fn time_of(ns: f64) -> String {
    match ns {
        ns if ns < 1e3 => format!("{} ns", digits(ns)),
        ns if ns < 1e6 => format!("{} us", digits(ns / 1e3)),
        ns => format!("{} ms", digits(ns / 1e6)),
    }
}
