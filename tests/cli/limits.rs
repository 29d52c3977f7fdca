//! Limits of the process: an error, never a signal, and never an abort.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};

use slablock::Cache;

use crate::shop::{Shop, code};

/// Runs slablock by a shell that has done `script` first.
fn after(shop: &Shop, script: &str, arguments: &[&str]) -> Output {
    let slablock = shop.command(arguments);
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{script}; exec \"$@\""), "sh"]);
    shell.arg(slablock.get_program()).args(arguments);
    shell.env("SLABLOCK_DIR", shop.store()).stdin(Stdio::null());
    shell.env("RUST_BACKTRACE", "0");
    shell.output().unwrap()
}

#[track_caller]
fn complains(output: &Output, status: i32, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    let ended = output.status;
    assert_eq!(ended.signal(), None, "{said}");
    assert_eq!(code(ended), status, "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("slablock: "), "{said}");
    for word in words {
        assert!(said.contains(word), "no {word:?} in {said}");
    }
}

/// The shell counts blocks of 512 bytes.
fn file_limit(bytes: usize) -> String {
    format!("ulimit -f {}", bytes / 512)
}

#[test]
fn a_file_that_may_not_grow_is_an_error() {
    let shop = Shop::new();
    let words = ["too large", "ulimit -f"];
    // The slab, before there is one.
    let set = ["set", "k", "v"];
    complains(&after(&shop, &file_limit(4_096), &set), 125, &words);
    assert_eq!(shop.run(&set).code, 0);
    // A value of its own, and an output.
    fs::write(shop.path("input"), vec![b'v'; 3 << 20]).unwrap();
    let script = format!("exec < {}", shop.path("input"));
    let limited = format!("{script}; {}", file_limit(1 << 20));
    complains(&after(&shop, &limited, &["set", "l"]), 125, &words);
    assert_eq!(after(&shop, &script, &["set", "l"]).status.code(), Some(0));
    let out = format!("exec > {}; {}", shop.path("output"), file_limit(1 << 20));
    complains(&after(&shop, &out, &["get", "l"]), 125, &words);
    complains(&after(&shop, &out, &["pop", "l"]), 125, &["still there"]);
    assert_eq!(shop.run(&["pop", "l"]).out.len(), 3 << 20);
    // A slab that grows, key by key.
    let slab = fs::metadata(shop.store().join("slab")).unwrap().len() as usize;
    let mut refused = 0;
    for key in 0..200 {
        let key = format!("{key} {}", "k".repeat(1_000));
        let output = after(&shop, &file_limit(slab + (16 << 10)), &["set", &key, "v"]);
        if output.status.code() != Some(0) {
            complains(&output, 125, &words);
            refused += 1;
        }
    }
    assert!(refused > 0);
    assert_eq!(shop.run(&["check"]).code, 0);
    assert_eq!(shop.run(&["get", "k"]).out, "v");
}

/// The command finds the signal as the caller of slablock had it.
#[test]
fn a_command_that_writes_too_much_is_ended_as_ever() {
    let shop = Shop::new();
    let script = format!("exec head -c 100000 /dev/zero > {}", shop.path("output"));
    for verb in [&["run", "k"][..], &["memo"]] {
        let command = [verb, &["--", "sh", "-c", &script]].concat();
        let output = after(&shop, &file_limit(4_096), &command);
        // Making the store is limited, too.
        assert_ne!(output.status.code(), Some(128 + 25));
        assert_eq!(shop.run(&["set", "here", ""]).code, 0);
        let output = after(&shop, &file_limit(4_096), &command);
        assert_eq!(output.status.code(), Some(128 + 25), "{verb:?}");
        let ignored = format!("trap '' XFSZ; {}", file_limit(4_096));
        let output = after(&shop, &ignored, &command);
        assert_eq!(output.status.code(), Some(1), "{verb:?}");
        fs::remove_dir_all(shop.store()).unwrap();
    }
}

/// What is kept for others, and what is read to be kept, is as long as it is: there may be no room
/// for it.
#[test]
fn an_output_that_does_not_fit_into_memory_is_an_error() {
    let shop = Shop::new();
    assert_eq!(shop.run(&["set", "k", "v"]).code, 0);
    let (space, output) = (150 << 10, 200 << 20);
    let script = format!("echo $$ > {}; head -c {output} /dev/zero", shop.path("ran"));
    let limit = format!("ulimit -v {space}");
    let memo = ["memo", "--key", "m", "--", "sh", "-c", &script];
    complains(
        &after(&shop, &limit, &memo),
        125,
        &["memory", "bytes", "ulimit -v"],
    );
    let ran = fs::read_to_string(shop.path("ran")).unwrap();
    let words = fs::read(format!("/proc/{}/cmdline", ran.trim())).unwrap_or_default();
    assert!(words.is_empty(), "the command goes on");
}

#[test]
fn an_input_that_does_not_fit_into_memory_sets_nothing() {
    let shop = Shop::new();
    assert_eq!(shop.run(&["set", "k", "v"]).code, 0);
    let input = fs::File::create(shop.path("input")).unwrap();
    input.set_len(400 << 20).unwrap();
    let script = format!("exec < {}; ulimit -v 150000", shop.path("input"));
    let words = ["memory", "bytes", "ulimit -v"];
    complains(&after(&shop, &script, &["set", "k"]), 125, &words);
    assert_eq!(shop.run(&["get", "k"]).out, "v");
}

/// It can be read once, and not a second time beside that.
#[test]
fn an_output_that_fits_into_memory_once_is_said_and_not_kept() {
    let shop = Shop::new();
    assert_eq!(shop.run(&["set", "k", "v"]).code, 0);
    let output = 100 << 20;
    let memo = [
        "memo",
        "--key",
        "m",
        "--",
        "head",
        "-c",
        &output.to_string(),
        "/dev/zero",
    ];
    // Room for it with what reading it takes, but not for it twice.
    let limited = after(&shop, "ulimit -v 200000", &memo);
    complains(&limited, 0, &["memory", "not kept"]);
    assert_eq!(limited.stdout.len(), output);
    assert_eq!(shop.run(&["get", "m"]).code, 1);
    // One that is kept is said from where it is.
    assert_eq!(shop.run(&memo).out.len(), output);
    let replayed = after(&shop, "ulimit -v 200000", &memo);
    assert_eq!(
        (replayed.status.code(), replayed.stdout.len()),
        (Some(0), output)
    );
}

/// Of many segments no more are kept open than the process may have.
#[test]
fn few_descriptors_are_enough_for_a_log_of_many_segments() {
    let shop = Shop::new();
    let options = Cache::options().size_limit(16 << 20);
    let cache = options.open(shop.store()).unwrap();
    for key in 0..16 {
        cache.set(format!("{key}"), vec![7; 700_000]).unwrap();
    }
    drop(cache);
    let segments = fs::read_dir(shop.store().join("log")).unwrap().count();
    assert!(segments > 10, "{segments}");
    let checked = after(&shop, "ulimit -n 16", &["check"]);
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(
        said.contains("sound") && checked.status.success(),
        "{checked:?}"
    );
}
