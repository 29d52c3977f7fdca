//! The rules of the house that a compiler does not check: which layer may name what.

#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

struct Source {
    /// Below `src`, as in `store/home/open.rs`.
    name: String,
    /// Without comments.
    code: String,
    text: String,
}

impl Source {
    /// Whether it is the tests of the file that has the name of its directory.
    fn is_tests(&self) -> bool {
        self.name.ends_with("/tests.rs")
    }

    fn is_in(&self, layer: &str) -> bool {
        self.name.starts_with(&format!("{layer}/")) || self.name == format!("{layer}.rs")
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(files_below(&path)),
            false => files.push(path),
        }
    }
    files.retain(|path| path.extension().is_some_and(|e| e == "rs"));
    files
}

fn sources_below(dir: &str) -> Vec<Source> {
    let dir = root().join(dir);
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let code = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        Source {
            name: path.strip_prefix(&dir).unwrap().display().to_string(),
            code: code.collect::<Vec<_>>().join("\n"),
            text,
        }
    };
    let sources: Vec<_> = files_below(&dir).into_iter().map(read).collect();
    assert!(!sources.is_empty(), "nothing in {}", dir.display());
    sources
}

/// Whether `code` has `word`, and not as a part of a longer one.
fn names(code: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back().is_some_and(part);
        let after = code[at + word.len()..].chars().next().is_some_and(part);
        !before && !after
    })
}

#[test]
fn imports_point_down_only() {
    let layers: [(&str, &[&str]); 6] = [
        ("sync", &["crate"]),
        (
            "record",
            &["os", "slab", "store", "cache", "types", "error"],
        ),
        (
            "os",
            &["record", "slab", "store", "cache", "types", "error"],
        ),
        (
            "slab",
            &["store", "cache", "lock", "rlock", "semaphore", "averager"],
        ),
        (
            "store",
            &["cache", "lock", "rlock", "semaphore", "averager"],
        ),
        ("error", &["os", "record", "slab", "store", "cache"]),
    ];
    for source in sources_below("src") {
        for (layer, above) in layers.iter().filter(|(layer, _)| source.is_in(layer)) {
            for module in *above {
                let wanted = [
                    names(&source.code, &format!("crate::{module}")),
                    *module == "crate" && names(&source.code, "crate::"),
                    // Also as one of a list: `use crate::{os::clock, ...}`.
                    grouped(&source.code).iter().any(|name| name == module),
                ];
                assert!(
                    !wanted.contains(&true),
                    "{} ({layer}) names {module}",
                    source.name
                );
            }
        }
    }
}

/// The rooms of `store`, from the top down. Below them are the words that all rooms use, and the
/// store itself.
const ROOMS: [&str; 12] = [
    "care", "txn", "space", "values", "holds", "reclaim", "index", "slots", "journal", "home",
    "log", "members",
];
/// A room of `store` without its tests, and how high it is: 0 is the top.
struct InRoom {
    file: String,
    height: usize,
    code: String,
}

fn rooms() -> Vec<InRoom> {
    let in_room = |source: Source| {
        let room = source.name.split('/').next()?;
        let room = ROOMS.iter().position(|name| *name == room);
        let code = source.code.split("mod tests {").next()?;
        // The store itself is one of the members. What is in none is below all of them.
        let otherwise = match source.name.as_str() {
            "mod.rs" => ROOMS.len() - 1,
            _ => ROOMS.len(),
        };
        Some(InRoom {
            height: room.unwrap_or(otherwise),
            code: code.to_string(),
            file: source.name,
        })
    };
    sources_below("src/store")
        .into_iter()
        .filter(|source| !source.is_tests())
        .filter_map(in_room)
        .collect()
}

#[test]
fn rooms_of_the_store_name_rooms_below_only() {
    for InRoom { file, height, code } in rooms() {
        for room in &ROOMS[..height] {
            let path = format!("crate::store::{room}::");
            let up: Vec<_> = code.lines().filter(|line| line.contains(&path)).collect();
            assert!(up.is_empty(), "{file} is below {room}: {up:?}");
        }
    }
}

/// The types of a source, without those of its tests.
fn types_of(code: &str) -> impl Iterator<Item = &str> {
    let outermost = code.lines().filter(|line| !line.starts_with(' '));
    outermost.filter_map(|line| {
        let line = line.strip_prefix("pub").unwrap_or(line);
        let line = match line.strip_prefix('(') {
            Some(rest) => rest.split_once(") ")?.1,
            None => line.trim_start(),
        };
        let (word, rest) = line.split_once(' ')?;
        let is_type = ["struct", "enum", "trait", "type", "union"].contains(&word);
        let name = rest
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .next()?;
        is_type.then_some(name)
    })
}

/// Which type the methods of an `impl` are of. `None`: they are those of a trait, or it is no
/// `impl`.
fn type_of_impl(line: &str) -> Option<&str> {
    let header = line.strip_prefix("impl")?;
    if names(header, "for") {
        return None;
    }
    let header = match header.strip_prefix('<') {
        Some(generic) => after_generics(generic),
        None => header,
    };
    let header = header.trim_start();
    header
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .next()
}

/// What is behind the `>` that closes what was opened before.
fn after_generics(text: &str) -> &str {
    let mut open = 1;
    for (at, c) in text.char_indices() {
        match c {
            '<' => open += 1,
            '>' if !text[..at].ends_with('-') => open -= 1,
            _ => {}
        }
        if open == 0 {
            return &text[at + 1..];
        }
    }
    text
}

/// The type, the file and the name of each method that is not of a trait.
fn methods<'s>(file: &'s str, code: &'s str) -> Vec<(&'s str, &'s str, &'s str)> {
    let mut methods = Vec::new();
    let mut of = None;
    for line in code.lines() {
        if line.starts_with("impl") {
            of = type_of_impl(line);
        }
        let signature = line.strip_prefix("    ").filter(|l| !l.starts_with(' '));
        let name = signature.and_then(|l| l.split_once("fn "));
        let name = name.and_then(|(_, l)| l.split(['(', '<']).next());
        methods.extend(of.zip(name).map(|(of, name)| (of, file, name)));
    }
    methods
}

/// The room of a file: of the store's one of its own, otherwise its directory, or itself.
fn room_of(file: &str) -> &str {
    let below = |dir: &'static str| {
        file.strip_prefix(dir)
            .and_then(|rest| rest.split('/').next())
    };
    let room = below("store/").or_else(|| file.split('/').next());
    room.map_or(file, |room| room.trim_end_matches(".rs"))
}

/// A type has its methods in the room in which it is defined. So nothing of a room can be called
/// without its type, or its functions, being named; and what is named, the rules above see.
#[test]
fn methods_stay_in_the_room_of_their_type() {
    let library = library();
    let mut homes = BTreeMap::new();
    for source in &library {
        homes.extend(types_of(&source.code).map(|name| (name, &source.name)));
    }
    let mut seen = 0;
    for source in &library {
        for (of, file, method) in methods(&source.name, &source.code) {
            if let Some(home) = homes.get(of) {
                let (there, here) = (room_of(home), room_of(file));
                assert_eq!(there, here, "{of}::{method} in {file}, and {of} in {home}");
                seen += 1;
            }
        }
    }
    assert!(seen > 1_000, "{seen} methods");
}

/// The library without its tests, its models and the command line.
fn library() -> Vec<Source> {
    let mut sources = sources_below("src");
    sources.retain(|source| {
        !source.is_tests() && !source.is_in("bin") && !source.is_in("record/models")
    });
    for source in &mut sources {
        let code = source.code.split("mod tests {").next().unwrap();
        source.code = code.to_string();
    }
    sources
}

/// What is read in one go: a file from its top to its bottom, tests and comments included.
const FILE_LINES_MAX: usize = 400;
/// A function whole on one screen, or nearly.
const FUNCTION_LINES_MAX: usize = 60;
/// What a reader has to know of a type to know it all.
const METHODS_MAX: usize = 40;
/// A type, and what stands beside it for its length.
const FILES_OF_METHODS_MAX: usize = 2;
/// It only hands on what its users ask for: its methods are the public face.
const HANDS_ON: &str = "Cache";

#[test]
fn no_file_is_long() {
    for source in sources_below("src").iter().filter(|s| !s.is_in("bin")) {
        let lines = source.text.lines().count();
        assert!(lines <= FILE_LINES_MAX, "{}: {lines} lines", source.name);
    }
}

#[test]
fn no_function_is_long() {
    let mut functions = 0;
    for source in sources_below("src").iter().filter(|s| !s.is_in("bin")) {
        let lines: Vec<&str> = source.text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let is_function = line
                .trim_start()
                .split(' ')
                .take(4)
                .any(|word| word == "fn");
            let ends = |line: &str| line.len() == indent + 1 && line.ends_with('}');
            if !is_function || line.trim_start().starts_with("//") || line.ends_with(['}', ';']) {
                continue;
            }
            let length = lines[at..].iter().position(|line| ends(line));
            let length = length.map_or(0, |last| last + 1);
            let place = format!("{}:{}", source.name, at + 1);
            assert!(length <= FUNCTION_LINES_MAX, "{place}: {length} lines");
            functions += 1;
        }
    }
    assert!(functions > 1_000, "{functions} functions");
}

#[test]
fn no_type_is_large_or_in_many_files() {
    let library = library();
    let all: Vec<_> = library
        .iter()
        .flat_map(|source| methods(&source.name, &source.code))
        .collect();
    let types: BTreeSet<_> = all.iter().map(|(of, ..)| *of).collect();
    assert!(types.len() > 100, "{types:?}");
    for name in types.into_iter().filter(|name| *name != HANDS_ON) {
        let of_it = || all.iter().filter(|(of, ..)| *of == name);
        let files: BTreeSet<_> = of_it().map(|(_, file, _)| *file).collect();
        let number = of_it().count();
        assert!(number <= METHODS_MAX, "{name} has {number} methods");
        assert!(files.len() <= FILES_OF_METHODS_MAX, "{name}: {files:?}");
    }
}

#[test]
fn no_name_is_that_of_two_types() {
    let library = library();
    let mut seen = BTreeMap::new();
    for source in &library {
        for name in types_of(&source.code) {
            let other = seen.insert(name, &source.name);
            assert_eq!(other, None, "{name} is also in {}", source.name);
        }
    }
    assert!(seen.len() > 150, "{seen:?}");
}

/// What `is_locked` and the like run through before they judge a hold, and no word there of what
/// would open the other shards to carry out what was decided, or mend them. (That nothing is
/// carried out is seen by `a_look_at_a_lock_carries_nothing_out`.)
#[test]
fn asking_whether_a_key_is_locked_opens_nothing() {
    let way = [
        ("lock.rs", "is_locked"),
        ("store/holds/standing.rs", "standing"),
        ("store/holds/standing.rs", "stand"),
        ("store/holds/locate.rs", "locate"),
        ("store/holds/locate.rs", "locate_within"),
        ("store/holds/locate.rs", "locate_and_tag"),
        ("store/holds/locate.rs", "may_be_in_the_way"),
        ("store/holds/locate.rs", "is_in_the_way"),
        ("store/holds/locate.rs", "check_found"),
        ("store/slots/by_slot.rs", "is_vacant"),
        ("store/slots/by_slot.rs", "content_of"),
        ("store/slots/by_slot.rs", "read_value"),
        ("store/journal/decided.rs", "nothing_is_decided"),
        ("store/journal/siblings.rs", "home"),
    ];
    let sources = sources_below("src");
    for (file, function) in way {
        let source = sources.iter().find(|source| source.name == file).unwrap();
        let head = format!("fn {function}(");
        let bodies: Vec<_> = source.code.split(&head).skip(1).collect();
        assert!(!bodies.is_empty(), "{file} has no {function}");
        for body in bodies {
            let body = body.split("\n    }\n").next().unwrap();
            for word in ["finish_decided", "carry_out", "shard", "open", "rebuild"] {
                assert!(!names(body, word), "{function} in {file} names {word}");
            }
        }
    }
}

/// The first words of what is in `use crate::{...}`.
fn grouped(code: &str) -> Vec<String> {
    let groups = code.split("use crate::{").skip(1);
    let inside = groups.filter_map(|rest| rest.split(";").next());
    let words = inside.flat_map(|group| group.split([',', '{', '}']));
    let first = words.filter_map(|word| word.trim().split("::").next());
    first.map(str::to_string).collect()
}

#[test]
fn the_protocol_knows_no_time_no_platform_and_nothing_unsafe() {
    for source in sources_below("src").iter().filter(|s| s.is_in("record")) {
        for word in [
            "std::time::Instant",
            "std::time::SystemTime",
            "nix",
            "std::fs",
            "std::io",
            "unsafe",
        ] {
            assert!(!names(&source.code, word), "{} names {word}", source.name);
        }
        // A duration is a number; a clock is not.
        let times = source.code.lines().filter(|line| names(line, "std::time"));
        for line in times {
            assert_eq!(line.trim(), "use std::time::Duration;", "{}", source.name);
        }
    }
}

#[test]
fn unsafe_code_stays_in_its_rooms() {
    for source in sources_below("src") {
        let allowed = source.is_in("os")
            || [
                "slab/bodies.rs",
                "slab/map.rs",
                "slab/sections.rs",
                "store/mod.rs",
                "store/holds/guard.rs",
                "bin/slablock/child.rs",
                "bin/slablock/start.rs",
            ]
            .contains(&&*source.name);
        let lines = source.text.lines().collect::<Vec<_>>();
        for (at, line) in lines.iter().enumerate() {
            if line.trim_start().starts_with("//") || !names(line, "unsafe") {
                continue;
            }
            let place = format!("{}:{}", source.name, at + 1);
            assert!(allowed, "{place} has unsafe code");
            let above = &lines[at.saturating_sub(5)..at];
            assert!(
                above
                    .iter()
                    .any(|l| l.contains("SAFETY:") || l.contains("/// # Safety")),
                "{place} does not say why"
            );
        }
    }
}

#[test]
fn only_one_file_says_where_atomics_come_from() {
    // Models run nothing but loom's atomics; what counts their runs is none of the protocol's.
    let protocol = |s: &&Source| !s.is_in("sync") && !s.is_in("record/models");
    for source in sources_below("src").iter().filter(protocol) {
        for word in ["std::sync::atomic", "core::sync::atomic", "loom::sync"] {
            assert!(!names(&source.code, word), "{} names {word}", source.name);
        }
        let imports = source
            .code
            .lines()
            .filter(|l| l.contains("use std::sync::{"));
        for line in imports {
            assert!(!names(line, "atomic"), "{} names atomics", source.name);
        }
    }
}

#[test]
fn nothing_is_left_for_later() {
    // Put together, so as not to find itself.
    let words = ["todo", "unimplemented", "dbg"].map(|word| format!("{word}!"));
    let ignored = format!("#[{}", "ignore");
    for source in ["src", "tests"].into_iter().flat_map(sources_below) {
        for word in words.iter().chain([&ignored]) {
            assert!(
                !source.code.contains(word.as_str()),
                "{} has {word}",
                source.name
            );
        }
    }
}

/// A first line stands alone in an index, and in an editor.
#[test]
fn no_doc_comment_begins_with_the_same() {
    let is_doc = |line: &str| line.starts_with("///") || line.starts_with("//!");
    for dir in ["src", "tests", "examples"] {
        for source in sources_below(dir) {
            let lines: Vec<&str> = source.text.lines().map(str::trim).collect();
            let begins = lines.iter().zip(std::iter::once(&"").chain(&lines));
            for (line, before) in begins.filter(|(line, _)| is_doc(line)) {
                let words = line.trim_start_matches(['/', '!', ' ']);
                let is_first = !is_doc(before);
                let name = &source.name;
                assert!(
                    !is_first || !words.starts_with("The same"),
                    "{name}: {line}"
                );
            }
        }
    }
}

/// Uses of these words for each 100 lines of comments: an actor has a name.
const NAMELESS_MAX: f64 = 1.0;
const NAMELESS: [&str; 4] = ["who", "whoever", "whose", "whom"];

#[test]
fn comments_name_who_acts() {
    let (mut lines, mut uses) = (0_u32, 0_u32);
    for source in sources_below("src") {
        let comments = source.text.lines().map(str::trim_start);
        for comment in comments.filter(|line| line.starts_with("//")) {
            let words = comment.split(|c: char| !c.is_alphanumeric());
            let nameless = |word: &&str| NAMELESS.contains(&word.to_lowercase().as_str());
            lines += 1;
            uses += words.filter(nameless).count() as u32;
        }
    }
    let rate = 100.0 * f64::from(uses) / f64::from(lines);
    assert!(
        rate < NAMELESS_MAX,
        "{uses} uses in {lines} lines of comments"
    );
}

/// Prose of more columns than code has is hard to read.
const COMMENT_COLUMNS: usize = 100;

#[test]
fn comments_wrap() {
    for source in sources_below("src") {
        for line in source.text.lines() {
            let comment = line.trim_start();
            // A table, or an address: what cannot be wrapped.
            let words = comment.trim_start_matches(['/', '!', ' ']);
            let fits = line.chars().count() <= COMMENT_COLUMNS;
            let may_be_long = words.starts_with('|') || !words.contains(' ');
            let is_comment = comment.starts_with("//");
            assert!(
                !is_comment || fits || may_be_long,
                "{}: {line}",
                source.name
            );
        }
    }
}

#[test]
fn the_library_depends_on_five_crates() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let after = manifest.split("\n[dependencies]\n").nth(1).unwrap();
    let table = after.split("\n[").next().unwrap();
    let lines = table
        .lines()
        .filter(|l| !l.is_empty() && !l.starts_with('#'));
    // What the command line needs is optional.
    let always = lines.filter(|l| !l.contains("optional = true"));
    let names: BTreeSet<_> = always
        .filter_map(|l| l.split([' ', '=', '.']).next())
        .collect();
    let five = ["crc32fast", "fs2", "memmap2", "nix", "rand"];
    assert_eq!(names, five.into_iter().collect());
}

/// A reader's map cannot be written: to try is a SIGSEGV (M6).
#[test]
fn a_reader_has_no_way_to_write() {
    let maps = [
        "slab/map.rs",
        "store/home/slab_file.rs",
        "store/care/reader.rs",
    ];
    for source in sources_below("src") {
        let named = names(&source.code, "map_to_read");
        assert!(!named || maps.contains(&&*source.name), "{}", source.name);
        if !source.is_in("store/care/reader") || source.is_tests() {
            continue;
        }
        let code = source.code.split("mod tests {").next().unwrap();
        for word in [
            "Store",
            "Process",
            "StripeGuard",
            "Handle",
            "store",
            "swap",
            "fetch_add",
            "fetch_or",
            "fetch_max",
            "fetch_update",
            "compare_exchange",
            "write",
            "flip",
            "prepare",
            "restore",
            "reset",
            "carry_out",
            "count_damaged",
            "use_word",
            "sync",
            "grow",
        ] {
            let called = match word {
                "store" | "flip" | "sync" => code.contains(&format!(".{word}(")),
                _ => names(code, word),
            };
            assert!(!called, "{} names {word}", source.name);
        }
    }
}

/// What other processes write at any time must never be seen as plain bytes (M3).
#[test]
fn nobody_makes_slices_of_the_map() {
    for source in sources_below("src") {
        for word in ["from_raw_parts", "from_raw_parts_mut"] {
            assert!(!names(&source.code, word), "{} names {word}", source.name);
        }
    }
}

/// Nothing but what the program prints: it writes both, and no hand is to come between.
#[test]
fn the_page_of_costs_shows_the_figures_of_the_last_whole_run() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let (page, printed) = (
        read("docs/performance.md"),
        read("docs/benchmarks/readme.md"),
    );
    let (_, rest) = page
        .split_once("<!-- figures:")
        .expect("the page has a place for figures");
    let (_, rest) = rest.split_once("-->\n").expect("which begins");
    let (shown, _) = rest
        .split_once("<!-- end of figures -->")
        .expect("and ends");
    assert_eq!(shown, printed, "docs/performance.md and readme.md");
    assert!(printed.matches("\n| ").count() > 20, "{printed}");
}

/// Few of them stand in README, which is written by hand.
#[test]
fn readme_shows_costs_of_that_run() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let (all, short) = (
        read("docs/benchmarks/peers.md"),
        read("docs/benchmarks/readme.md"),
    );
    let readme = read("README.md");
    let (_, costs) = readme.split_once("## What it costs\n").unwrap();
    let (costs, _) = costs.split_once("\n## ").unwrap();
    let costs = costs.replace(", ", " ");
    let words: Vec<&str> = costs.split_whitespace().collect();
    let is_figure = |pair: &&[&str]| {
        ["ns", "us", "ms"].contains(&pair[1]) && pair[0].starts_with(|c: char| c.is_ascii_digit())
    };
    let figures: Vec<_> = words.windows(2).filter(is_figure).collect();
    assert!(figures.len() > 20, "{figures:?}");
    for figure in figures {
        let (number, with_unit) = (format!(" {} ", figure[0]), figure.join(" "));
        let is_there = short.contains(&with_unit) || all.contains(&number);
        assert!(is_there, "{with_unit} was not measured");
    }
}
