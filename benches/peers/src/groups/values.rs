//! Values under keys: what an operation costs, alone and among others, and with many keys.

use super::Run;
use super::rounds::is_like_another;
use super::stores::{PROCESSES, Slow, Stores};
use crate::Answer;
use crate::report::{Cell, Column, Table, thousands};
use crate::values;

const ABOUT: &str = "Keys of 16 bytes, values of 100, in random order; each operation stands for itself \
    (a transaction, where there are such), and what is read is copied into memory of the reader. A \
    counter is one of 1,000. Nothing is synced where that can be chosen: LMDB has NO_SYNC, SQLite a \
    write-ahead log with synchronous = NORMAL, redb Durability::None, and the files are not synced. LMDB \
    is there twice, for its writable map is quicker, and less protected, than its default. The \
    first row is no store, but what none of this kind can go below: a read of a table of 4 bytes a key, \
    which says where in a mapped file of the length of slablock's the value is, and a copy of it, each get \
    begun when the last one is over; for an increment an atomic addition instead, and for 1 MiB one pwrite \
    to, or pread from, a file that is open. The second row does what slablock asks of memory and of the file \
    system, and nothing else: a get reads a table of as many places as slablock has buckets, the first line of \
    a record, that of its key, and one of its two cells; 1 MiB is appended to a file, and the room of the \
    value before given back. \
    Who keeps a file for each key, or would take too long to fill, has fewer keys, as its name then says.";
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
    let mut gets = vec![Stores::open(run, &names, few, Slow::IsLeftOut)?.repeat(run, "get")];
    let mut stores = Stores::open(run, &names, usual, Slow::HasFewer)?;
    let labels = stores.names(usual);
    let cells = OPERATIONS.map(|(op, _)| stores.repeat(run, op));
    gets.push(only_of_all(&cells[0], &stores.fewer(usual)));
    stores.share(run);
    let mixed = mixed(run, &mut stores);
    drop(stores);
    if many > 0 {
        gets.push(Stores::open(run, &names, many, Slow::IsLeftOut)?.repeat(run, "get"));
    }
    let columns = OPERATIONS.map(|(_, name)| Column::new(name, "us"));
    let title = format!("Values: operations in a store of {} keys", thousands(usual));
    let operations = table("values", &title, ABOUT, &columns, &labels, &cells);
    let columns =
        [few, usual, many].map(|keys| Column::new(format!("{} keys", thousands(keys)), "us"));
    let (title, columns) = ("Values: a get, by number of keys", &columns[..gets.len()]);
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let gets = table("values-keys", title, ABOUT_KEYS, columns, &names, &gets);
    let counts = PROCESSES.map(|n| format!("{n} process{}", if n == 1 { "" } else { "es" }));
    let mut columns = counts.map(|name| Column::new(name, "1000/s")).to_vec();
    columns.push(Column::new("increments lost", ""));
    let title = "Values: several processes";
    let mixed = table("values-mixed", title, ABOUT_MIX, &columns, &labels, &mixed);
    Ok(vec![operations, gets, mixed])
}

fn mixed(run: &Run, stores: &mut Stores) -> Vec<Vec<Cell>> {
    let mut cells = PROCESSES
        .map(|processes| stores.mix(run, processes))
        .to_vec();
    cells.push(stores.lost(run));
    cells
}

/// Who has fewer keys does not belong into their column.
fn only_of_all(cells: &[Cell], fewer: &[bool]) -> Vec<Cell> {
    let cell = |(cell, fewer): (&Cell, &bool)| match fewer {
        true => Cell::Missing("has fewer keys".into()),
        false => cell.clone(),
    };
    cells.iter().zip(fewer).map(cell).collect()
}

/// From what was measured, column by column. Who has nothing but absent operations is left out.
fn table(
    id: &str,
    title: &str,
    about: &str,
    columns: &[Column],
    names: &[String],
    cells: &[Vec<Cell>],
) -> Table {
    let mut table = Table::new(id, title, about, &[]);
    table.columns = columns.to_vec();
    for (at, name) in names.iter().enumerate() {
        let row: Vec<Cell> = cells.iter().map(|column| column[at].clone()).collect();
        if !row
            .iter()
            .all(|cell| matches!(cell, Cell::Said(text) if text == "-"))
        {
            table.row(name, row);
        }
    }
    table
}
