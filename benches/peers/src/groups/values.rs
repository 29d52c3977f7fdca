//! Values under keys: what an operation costs, alone and among others, and with many keys.

use super::Run;
use super::rounds::is_like_another;
use super::stores::{PROCESSES, Stores};
use crate::Answer;
use crate::report::{Cell, Table, thousands};
use crate::values;

const ABOUT: &str = "Keys of 16 bytes, values of 100, in random order; each operation stands for itself \
    (a transaction, where there are such), and what is read is copied into memory of the reader. A \
    counter is one of 1,000. Nothing is synced where that can be chosen: LMDB has NO_SYNC, SQLite a \
    write-ahead log with synchronous = NORMAL, redb Durability::None, and the files are not synced.";
const ABOUT_KEYS: &str = "The same, for stores of so many keys.";
const ABOUT_MIX: &str = "Processes that get nine values and set one, at random, all the time. redb \
    allows several processes only if each commit is synced. Then four of them add one to the same \
    counter, 10,000 times each or as often as they can in the time.";

/// In microseconds.
const OPERATIONS: [(&str, &str); 7] = [
    ("get", "get"),
    ("set", "set, existing"),
    ("new", "set, new"),
    ("delete", "delete"),
    ("incr", "increment"),
    ("write", "write 1 MiB"),
    ("read", "read 1 MiB"),
];

pub fn measure(run: &Run) -> Answer<Vec<Table>> {
    let mut names = values::names();
    names.retain(|name| !(run.quick && is_like_another(name)));
    let [few, usual, many] = run.among([1_000, 100_000, 1_000_000], [100, 300, 0]);
    let mut gets = vec![Stores::open(run, &names, few)?.repeat(run, "get")];
    let mut stores = Stores::open(run, &names, usual)?;
    let cells = OPERATIONS.map(|(op, _)| stores.repeat(run, op));
    gets.push(cells[0].clone());
    stores.share(run);
    let mixed = mixed(run, &mut stores);
    drop(stores);
    if many > 0 {
        gets.push(Stores::open(run, &names, many)?.repeat(run, "get"));
    }
    let columns = OPERATIONS.map(|(_, name)| (name.to_string(), "us"));
    let title = format!("Values: operations in a store of {} keys", thousands(usual));
    let operations = table("values", &title, ABOUT, &columns, &names, &cells);
    let columns = [few, usual, many].map(|keys| (format!("{} keys", thousands(keys)), "us"));
    let title = "Values: a get, by number of keys";
    let gets = table(
        "values-keys",
        title,
        ABOUT_KEYS,
        &columns[..gets.len()],
        &names,
        &gets,
    );
    let counts = PROCESSES.map(|n| format!("{n} process{}", if n == 1 { "" } else { "es" }));
    let mut columns = counts.map(|name| (name, "1000/s")).to_vec();
    columns.push(("increments lost".into(), ""));
    let title = "Values: several processes";
    let mixed = table("values-mixed", title, ABOUT_MIX, &columns, &names, &mixed);
    Ok(vec![operations, gets, mixed])
}

fn mixed(run: &Run, stores: &mut Stores) -> Vec<Vec<Cell>> {
    let mut cells = PROCESSES
        .map(|processes| stores.mix(run, processes))
        .to_vec();
    cells.push(stores.lost(run));
    cells
}

/// From what was measured, column by column.
fn table(
    id: &str,
    title: &str,
    about: &str,
    columns: &[(String, &'static str)],
    names: &[&str],
    cells: &[Vec<Cell>],
) -> Table {
    let columns: Vec<_> = columns
        .iter()
        .map(|(name, unit)| (name.as_str(), *unit))
        .collect();
    let mut table = Table::new(id, title, about, &columns);
    for (at, name) in names.iter().enumerate() {
        table.row(
            name,
            cells.iter().map(|column| column[at].clone()).collect(),
        );
    }
    table
}
