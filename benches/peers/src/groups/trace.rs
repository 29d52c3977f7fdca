//! A cache under a limit: how many gets hit, by policy, and what they cost.

use super::Run;
use super::traced::{Outcome, Traced};
use crate::report::{Cell, Table, thousands};
use crate::stats::at_share;
use crate::trace::exact::{self, Policy};
use crate::trace::worker::{KEEPERS, Keeper};
use crate::trace::{Hits, Keys, Shape, Step};
use crate::{Answer, interrupt};

const ABOUT: &str = "Keys of 16 bytes by Zipf's law with an exponent of 0.99, values of log-normal length with \
    a median of 300 bytes and a tail that is cut at 1 MiB; nine gets to a set, and a get that misses is \
    followed by a set of its key, which is no operation of its own. Two processes have every second operation \
    each. The limit is a tenth of what all keys would take with their values. slablock and diskcache are to \
    stay within it with all their files (of slablock's, a third is for the slots and the rest for larger \
    values); LMDB has none, and evicts nothing. The trace is run once, and all figures but the hits of the \
    whole run are from its second half. Processor time is that of both processes, for one operation. Held are \
    the bytes of keys and values alone. Below each policy of slablock are exact simulations of it, which know \
    all values and have no bytes but those of keys and values: one in the bytes that slablock held in the \
    end, one in the whole limit.";
const ABOUT_SHAPES: &str = "How many gets hit in the second half, of the same and of other traces. Scan: every \
    third get is of a scan over all keys, whose own hits are not counted. Loop: keys come one after the other, \
    in a cycle a quarter longer than what the limit has room for. Shift: after half of the operations those \
    keys that came most seldom come most often.";

/// Of the first table.
const COLUMNS: [(&str, &str); 12] = [
    ("hits", "%"),
    ("hits, whole run", "%"),
    ("get, 50 %", "us"),
    ("get, 99.9 %", "us"),
    ("get, worst", "us"),
    ("set, 50 %", "us"),
    ("set, 99.9 %", "us"),
    ("set, worst", "us"),
    ("operations", "1000/s"),
    ("processor time", "us"),
    ("on disk", "MB"),
    ("held", "MB"),
];

/// Of the second one.
const SHAPES: [(Shape, &str); 3] = [
    (Shape::Scan, "scan"),
    (Shape::Loop, "loop"),
    (Shape::Shift, "shift"),
];

pub fn measure(run: &Run) -> Answer<Vec<Table>> {
    let keys = Keys::new(run.among(1_000_000, 80_000));
    let costs = costs(run, &keys, run.among(700_000, 6_000))?;
    let keys = Keys::new(run.among(250_000, 80_000));
    let shapes = shapes(run, &keys, run.among(300_000, 2_000))?;
    Ok(vec![costs, shapes])
}

fn costs(run: &Run, keys: &Keys, steps: usize) -> Answer<Table> {
    let title = title("A cache under a limit", keys, steps);
    let mut table = Table::new("trace", &title, ABOUT, &COLUMNS);
    let trace = &keys.trace(Shape::Steady, steps);
    let limit = keys.limit;
    for (name, keeper) in KEEPERS {
        run.progress(name);
        let outcome = Traced { trace, limit }.by(run, name, keeper);
        let rows = match keeper {
            Keeper::Slablock(policy) => beside(name, policy, outcome, trace, limit)?.to_vec(),
            Keeper::Lmdb(_) | Keeper::Diskcache => vec![(name.into(), cells(outcome))],
        };
        for (name, cells) in rows {
            table.row(&name, cells);
        }
    }
    Ok(table)
}

fn shapes(run: &Run, keys: &Keys, steps: usize) -> Answer<Table> {
    let columns = SHAPES.map(|(_, name)| (name, "%"));
    let title = title("A cache under a limit, other traces", keys, steps);
    let mut table = Table::new("trace-shapes", &title, ABOUT_SHAPES, &columns);
    let traces = SHAPES.map(|(shape, _)| keys.trace(shape, steps));
    let limit = keys.limit;
    for (name, keeper) in KEEPERS {
        let Keeper::Slablock(policy) = keeper else {
            continue;
        };
        let mut rows: Vec<(String, Vec<Cell>)> = Vec::new();
        for (trace, (_, shape)) in traces.iter().zip(SHAPES) {
            run.progress(format!("{name}, {shape}"));
            let outcome = Traced { trace, limit }.by(run, name, keeper);
            let beside = beside(name, policy, outcome, trace, limit)?;
            for (at, (name, cells)) in beside.into_iter().enumerate() {
                if rows.len() == at {
                    rows.push((name, Vec::new()));
                }
                // The hits of the second half.
                rows[at].1.extend(cells.into_iter().next());
            }
        }
        for (name, cells) in rows {
            table.row(&name, cells);
        }
    }
    Ok(table)
}

fn title(what: &str, keys: &Keys, steps: usize) -> String {
    let count = thousands(keys.count.into());
    let megabytes = keys.limit / 1_000_000;
    format!(
        "{what}: {} operations on {count} keys, with room for {megabytes} MB",
        thousands(steps as u64)
    )
}

/// The rows of a policy: slablock's, and those of its simulations.
fn beside(
    name: &str,
    policy: Policy,
    outcome: Answer<Outcome>,
    trace: &[Step],
    limit: u64,
) -> Answer<[(String, Vec<Cell>); 3]> {
    let held = outcome.as_ref().map_or(None, |outcome| outcome.held);
    let in_held = match held {
        Some(held) => simulated(policy, held, trace)?,
        None => missing("slablock was not measured"),
    };
    let in_limit = simulated(policy, limit, trace)?;
    Ok([
        (name.into(), cells(outcome)),
        (format!("{policy:?}, exact, in what it held"), in_held),
        (format!("{policy:?}, exact, in the limit"), in_limit),
    ])
}

fn missing(why: &str) -> Vec<Cell> {
    vec![Cell::Missing(why.into()); COLUMNS.len()]
}

fn cells(outcome: Answer<Outcome>) -> Vec<Cell> {
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(failure) => return missing(&failure.to_string()),
    };
    let mut cells = shares(&outcome.hits);
    for times in [&outcome.gets, &outcome.sets] {
        let at = |share| Cell::exactly(at_share(times, share) as f64 / 1e3);
        cells.extend([0.5, 0.999, 1.0].map(at));
    }
    cells.extend([
        Cell::exactly(outcome.steps_a_second / 1e3),
        Cell::exactly(outcome.processor_ns / 1e3),
        megabytes(outcome.disk_bytes),
        outcome.held.map_or(Cell::said("-"), megabytes),
    ]);
    cells
}

fn shares(hits: &Hits) -> Vec<Cell> {
    [hits.warm, hits.whole].map(Cell::exactly).to_vec()
}

fn megabytes(bytes: u64) -> Cell {
    Cell::exactly(bytes as f64 / 1e6)
}

/// What a simulation has to tell, and nothing where there are costs.
fn simulated(policy: Policy, limit: u64, trace: &[Step]) -> Answer<Vec<Cell>> {
    interrupt::check()?;
    let hits = exact::hits(policy, limit, trace);
    let mut cells = shares(&Hits::of(trace, &hits));
    cells.resize(COLUMNS.len() - 1, Cell::said("-"));
    cells.push(megabytes(limit));
    Ok(cells)
}
