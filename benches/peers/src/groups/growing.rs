//! What it costs a store to grow from nothing.

use std::time::Instant;

use super::Run;
use super::keys::bytes_on_disk;
use crate::report::{Cell, Column, Table, thousands};
use crate::values::{HERE, Key, LMDB, LMDB_WRITABLE, Needs, Op, Store};
use crate::{Answer, temporary};

const ABOUT: &str = "One process sets values of 100 bytes under keys of 16, each of them new, in a store of \
    which nothing was said but where it is (LMDB has to be told how large its map may become). Making: the mean of \
    the last 1,000 on the way to so many keys; then what one in a thousand of all took at least, and the worst. Get: at \
    random, among so many. Disk: of all files, when nothing is in it, and a key, of the most.";

const VALUE: [u8; 100] = [7; 100];
/// Of the last so many the mean.
const LAST: usize = 1_000;

pub fn measure(run: &Run) -> Answer<Vec<Table>> {
    let sizes = run.among(&[1_000, 100_000, 1_000_000][..], &[1_000, 10_000][..]);
    let mut table = Table::new("growing", "A store that grows", ABOUT, &[]);
    table.columns = columns(sizes);
    for name in ["slablock", LMDB, LMDB_WRITABLE] {
        run.progress(format!(
            "{name}: to {} keys",
            thousands(sizes[sizes.len() - 1] as u64)
        ));
        match grow(run, name, sizes) {
            Ok(cells) => table.row(name, cells),
            Err(why) => table.missing(name, &why.to_string()),
        }
    }
    Ok(vec![table])
}

fn columns(sizes: &[usize]) -> Vec<Column> {
    let keys = |size: &usize| thousands(*size as u64);
    let making = sizes
        .iter()
        .map(|size| Column::new(format!("making, {}", keys(size)), "us"));
    let gets = sizes
        .iter()
        .map(|size| Column::new(format!("get, {}", keys(size)), "us"));
    let mut columns = vec![Column::new("disk, empty", "KiB")];
    columns.extend(making);
    columns.push(Column::new("making, 99.9th percentile", "us"));
    columns.push(Column::new("making, worst", "us"));
    columns.extend(gets);
    columns.push(Column::new("disk a key", "B"));
    columns
}

fn grow(run: &Run, name: &str, sizes: &[usize]) -> Answer<Vec<Cell>> {
    let dir = temporary::directory(&run.dir)?;
    let most = sizes[sizes.len() - 1];
    let open = HERE.iter().find(|(other, _)| *other == name);
    let (_, open) = open.ok_or("there is no such store")?;
    let needs = Needs {
        keys: most,
        shared: false,
    };
    let mut store = open(dir.path(), needs)?;
    let empty = bytes_on_disk(dir.path())? as f64;
    let (mut times, mut making, mut gets) = (Vec::with_capacity(most), Vec::new(), Vec::new());
    for &size in sizes {
        for number in times.len()..size {
            let (key, begun) = (key(number), Instant::now());
            store.set(&key, &VALUE)?;
            times.push(begun.elapsed().as_nanos() as f64);
        }
        let last = &times[size - LAST.min(size)..];
        making.push(Cell::exactly(
            last.iter().sum::<f64>() / last.len() as f64 * 1e-3,
        ));
        gets.push(Cell::median(got(run, &mut *store, size), 1e-3));
    }
    let disk = bytes_on_disk(dir.path())? as f64 / most as f64;
    times.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| Cell::exactly(times[(share * (most - 1) as f64) as usize] * 1e-3);
    let mut cells = vec![Cell::exactly(empty / 1024.0)];
    cells.extend(making);
    cells.extend([at(0.999), at(1.0)]);
    cells.extend(gets);
    cells.push(Cell::exactly(disk));
    Ok(cells)
}

/// Nanoseconds of a get, several times.
fn got(run: &Run, store: &mut dyn Store, size: usize) -> Answer<Vec<f64>> {
    let mut state = 1_u64;
    let mut random = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as usize % size
    };
    let keys: Vec<Key> = (0..run.among(200_000, 2_000))
        .map(|_| key(random()))
        .collect();
    let mut into = Vec::new();
    let each = |_| {
        let took = store.run(Op::Get, &keys, &[], &mut into)?;
        Ok(took.as_nanos() as f64 / keys.len() as f64)
    };
    (0..run.among(5, 2)).map(each).collect()
}

fn key(number: usize) -> Key {
    let mut key = *b"key  0000000000 ";
    for (place, digit) in key[5..15].iter_mut().zip(format!("{number:010}").bytes()) {
        *place = digit;
    }
    key
}
