//! Which store is used, what there is where there is none, and what is said of one that may not be
//! used.

#![cfg(feature = "cli")]

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use slablock::{Cache, FanoutCache};

use crate::kit::{Place, bind, in_a_namespace, mount, output_of, role, said};

const ALICE: u32 = 5001;
const BOB: u32 = 5002;

fn slablock(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slablock"));
    command.args(arguments).stdin(Stdio::null());
    command
}

#[track_caller]
fn ended(output: &Output, status: i32, words: &[&str]) {
    let said = said(output);
    assert_eq!(output.status.code(), Some(status), "{said}");
    for word in words {
        assert!(said.contains(word), "no {word:?} in {said}");
    }
}

/// Runs the rest of a test as root in a mount namespace of its own, where users can be made up.
fn with_users(name: &str) -> Option<Users> {
    if role(name).is_some() {
        return Some(Users::new());
    }
    match nix::unistd::geteuid().is_root() {
        true => in_a_namespace(name, Path::new("")),
        false => println!("skipped: {name} needs other users, and so root"),
    }
    None
}

/// Users of a machine of our own: their homes, `/etc/passwd` and `/var/tmp`.
struct Users {
    root: PathBuf,
    program: PathBuf,
}

impl Users {
    fn new() -> Users {
        let root = Path::new("/mnt");
        assert!(mount("tmpfs", "mode=755", root), "no tmpfs");
        assert!(mount("tmpfs", "mode=1777", Path::new("/var/tmp")));
        let program = root.join("slablock");
        fs::copy(env!("CARGO_BIN_EXE_slablock"), &program).unwrap();
        let passwd = root.join("passwd");
        fs::write(&passwd, "").unwrap();
        assert!(bind(&passwd, Path::new("/etc/passwd")));
        let users = Users {
            root: root.to_owned(),
            program,
        };
        users.are(&[("alice", ALICE, "/mnt/alice"), ("bob", BOB, "/mnt/bob")]);
        users.home("alice", ALICE, 0o755);
        users.home("bob", BOB, 0o755);
        users
    }

    fn are(&self, users: &[(&str, u32, &str)]) {
        let line = |(name, user, home): &(&str, u32, &str)| {
            format!("{name}:x:{user}:{user}:Some, One:{home}:/bin/sh\n")
        };
        let text: String = users.iter().map(line).collect();
        fs::write(self.root.join("passwd"), text).unwrap();
    }

    fn home(&self, name: &str, user: u32, mode: u32) -> PathBuf {
        let home = self.root.join(name);
        fs::create_dir(&home).unwrap();
        chown(&home, Some(user), Some(user)).unwrap();
        fs::set_permissions(&home, Permissions::from_mode(mode)).unwrap();
        home
    }

    fn command(&self, user: u32, environment: &[(&str, &str)], arguments: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        let user = user.to_string();
        command
            .args(["--reuid", &user, "--regid", &user, "--clear-groups"])
            .arg(&self.program)
            .args(arguments)
            .stdin(Stdio::null())
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.envs(environment.iter().copied());
        command.current_dir("/");
        command
    }

    fn run(&self, user: u32, arguments: &[&str]) -> Output {
        output_of(self.command(user, &[], arguments))
    }

    /// The directory that `status` names.
    #[track_caller]
    fn store(&self, user: u32, environment: &[(&str, &str)]) -> PathBuf {
        let output = output_of(self.command(user, environment, &["status", "--json"]));
        assert!(output.status.success(), "{}", said(&output));
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        json["dir"].as_str().unwrap().into()
    }

    /// That there is no store to be had, for that reason, and that none was made elsewhere.
    #[track_caller]
    fn are_refused(&self, user: u32, words: &[&str]) {
        let words = [&["SLABLOCK_DIR"], words].concat();
        for arguments in [
            &["run", "k", "--", "true"][..],
            &["set", "k", "v"],
            &["memo", "--", "true"],
            &["average", "add", "a", "1"],
        ] {
            ended(&self.run(user, arguments), 125, &words);
        }
        let spare = format!("/var/tmp/slablock-{user}");
        assert!(!fs::exists(spare).unwrap());
    }
}

#[test]
fn a_user_has_one_store_whatever_the_environment_says() {
    let Some(users) = with_users("places::a_user_has_one_store_whatever_the_environment_says")
    else {
        return;
    };
    let runtime = users.home("runtime", ALICE, 0o700);
    let runtime = runtime.to_str().unwrap();
    let environments: [&[(&str, &str)]; 4] = [
        // A session, a job of cron, somebody else's shell, and nothing at all.
        &[
            ("HOME", "/mnt/alice"),
            ("XDG_RUNTIME_DIR", runtime),
            ("TMPDIR", runtime),
        ],
        &[("HOME", "/mnt/alice"), ("USER", "alice")],
        &[("HOME", "/mnt/bob"), ("XDG_STATE_HOME", runtime)],
        &[("SLABLOCK_DIR", "")],
    ];
    let store = Path::new("/mnt/alice/.local/state/slablock");
    for environment in environments {
        assert_eq!(users.store(ALICE, environment), store);
    }
    // Looking made nothing.
    assert!(!fs::exists("/mnt/alice/.local").unwrap());
    let mut holder = users.command(
        ALICE,
        environments[0],
        &["run", "-v", "k", "--", "sh", "-c", "echo up; exec cat"],
    );
    let mut holder = holder
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut out = BufReader::new(holder.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    for environment in environments {
        let arguments = ["run", "-n", "k", "--", "true"];
        let output = output_of(users.command(ALICE, environment, &arguments));
        ended(&output, 75, &["held"]);
        let table = output_of(users.command(ALICE, environment, &["status"]));
        ended(&table, 0, &[store.to_str().unwrap(), "lock"]);
    }
    drop(holder.stdin.take());
    let output = holder.wait_with_output().unwrap();
    ended(&output, 0, &[store.to_str().unwrap(), "token"]);
    for dir in [".local", ".local/state", ".local/state/slablock"] {
        let meta = fs::metadata(Path::new("/mnt/alice").join(dir)).unwrap();
        assert_eq!((meta.uid(), meta.mode() & 0o777), (ALICE, 0o700), "{dir}");
    }
    // Another user's is another one.
    assert_eq!(
        users
            .run(BOB, &["run", "-n", "k", "--", "true"])
            .status
            .code(),
        Some(0)
    );
    assert!(fs::exists("/mnt/bob/.local/state/slablock/slab").unwrap());
    // But for what names it.
    let named = output_of(users.command(
        BOB,
        &[("SLABLOCK_DIR", "/mnt/bob/named")],
        &["set", "k", "v"],
    ));
    ended(&named, 0, &[]);
    assert!(fs::exists("/mnt/bob/named/slab").unwrap());
    println!("all told");
}

#[test]
fn users_who_have_no_home_have_a_store_where_files_stay() {
    let Some(users) = with_users("places::users_who_have_no_home_have_a_store_where_files_stay")
    else {
        return;
    };
    users.are(&[
        ("nobody", 6001, "/nonexistent"),
        ("shared", 6002, "/mnt/shared"),
        ("system", 6003, "/usr"),
        ("null", 6004, "/dev/null"),
        ("none", 6005, ""),
        ("empty", 6006, "/var/empty"),
        ("odd", 6007, "relative"),
    ]);
    users.home("shared", 6002, 0o775);
    for user in 6001..=6008 {
        let store = PathBuf::from(format!("/var/tmp/slablock-{user}"));
        assert_eq!(users.store(user, &[("HOME", "/mnt/alice")]), store);
        assert!(!fs::exists(&store).unwrap());
        ended(&users.run(user, &["set", "k", "v"]), 0, &[]);
        let meta = fs::metadata(&store).unwrap();
        assert_eq!((meta.uid(), meta.mode() & 0o777), (user, 0o700));
        ended(&users.run(user, &["get", "k"]), 0, &["v"]);
        assert_eq!(users.store(user, &[]), store);
    }
    println!("all told");
}

#[test]
fn a_store_that_others_could_have_prepared_is_refused() {
    let Some(users) = with_users("places::a_store_that_others_could_have_prepared_is_refused")
    else {
        return;
    };
    users.are(&[("alice", ALICE, "/nonexistent")]);
    let dir = PathBuf::from(format!("/var/tmp/slablock-{ALICE}"));
    // Somebody else's, with a store in it; a link to one's own; one's own that others may write to.
    fs::create_dir(&dir).unwrap();
    Cache::options().mode(0o666).open(&dir).unwrap();
    fs::set_permissions(&dir, Permissions::from_mode(0o777)).unwrap();
    let refused = |words: &[&str]| {
        for arguments in [
            &["get", "k"][..],
            &["run", "k", "--", "true"],
            &["status"],
            &["repair"],
        ] {
            let words = [&["SLABLOCK_DIR", dir.to_str().unwrap()], words].concat();
            ended(&users.run(ALICE, arguments), 125, &words);
        }
    };
    refused(&["belongs to"]);
    chown(&dir, Some(ALICE), Some(ALICE)).unwrap();
    refused(&["others may write"]);
    fs::rename(&dir, "/mnt/alice/store").unwrap_or_else(|_| fs::remove_dir_all(&dir).unwrap());
    fs::create_dir_all("/mnt/alice/store").unwrap();
    chown("/mnt/alice/store", Some(ALICE), Some(ALICE)).unwrap();
    symlink("/mnt/alice/store", &dir).unwrap();
    refused(&["not a directory"]);
    println!("all told");
}

/// Another place would be a store of its own: what held in one would not in the other.
#[test]
fn a_home_that_cannot_serve_at_the_moment_is_an_error() {
    let Some(users) = with_users("places::a_home_that_cannot_serve_at_the_moment_is_an_error")
    else {
        return;
    };
    let home = Path::new("/mnt/alice");
    // Not mounted: not there, or an empty directory of root's.
    fs::remove_dir(home).unwrap();
    users.are_refused(ALICE, &["/mnt/alice"]);
    fs::create_dir(home).unwrap();
    users.are_refused(ALICE, &["/mnt/alice", "mounted"]);
    // Closed to everybody, as where a service may see no homes.
    fs::create_dir_all("/mnt/closed/carol").unwrap();
    fs::set_permissions("/mnt/closed", Permissions::from_mode(0o000)).unwrap();
    users.are(&[
        ("carol", 5003, "/mnt/closed/carol"),
        ("alice", ALICE, "/mnt/alice"),
    ]);
    users.are_refused(5003, &["/mnt/closed/carol"]);
    // Full.
    let options = format!("mode=755,uid={ALICE},gid={ALICE},nr_inodes=2");
    assert!(mount("tmpfs", &options, home));
    users.are_refused(ALICE, &["/mnt/alice/.local", "No space"]);
    // Full when the directory is there.
    let options = format!("mode=755,uid={ALICE},gid={ALICE},size=8k");
    assert!(mount("tmpfs", &options, home));
    users.are_refused(ALICE, &["/mnt/alice/.local", "no room"]);
    // Read-only, before and after the store is there.
    let options = format!("mode=755,uid={ALICE},gid={ALICE}");
    assert!(mount("tmpfs", &options, home));
    assert!(mount("tmpfs", &format!("remount,ro,{options}"), home));
    users.are_refused(ALICE, &["/mnt/alice/.local", "Read-only"]);
    assert!(mount("tmpfs", &format!("remount,rw,{options}"), home));
    ended(&users.run(ALICE, &["set", "k", "v"]), 0, &[]);
    assert!(mount("tmpfs", &format!("remount,ro,{options}"), home));
    users.are_refused(ALICE, &["/mnt/alice/.local", "Read-only"]);
    println!("all told");
}

/// Whoever comes by path later excludes nobody who was there before.
#[test]
fn a_store_that_is_gone_in_the_end_is_said() {
    for shards in [None, Some(3)] {
        let place = Place::new();
        if let Some(shards) = shards {
            FanoutCache::open(place.store(), shards).unwrap();
        }
        let store = place.store();
        let run = |script: &str| {
            let mut command = slablock(&["run", "k", "--", "sh", "-c", script]);
            output_of({
                command.env("SLABLOCK_DIR", &store);
                command
            })
        };
        ended(&run("true"), 0, &[]);
        // What a signal ended is what it was.
        ended(&run("kill -9 $$"), 128 + 9, &[]);
        let script = "cd \"$SLABLOCK_DIR\"/..; mv store old; cp -r old store; exit 3";
        ended(&run(script), 76, &[store.to_str().unwrap(), "replaced"]);
        fs::remove_dir_all(&store).unwrap();
        fs::rename(place.root().join("old"), &store).unwrap();
        // What an opener makes again is no other store.
        let slablock = env!("CARGO_BIN_EXE_slablock");
        // As another file, which may not have the number of the one that is gone.
        let script = format!(
            "cd \"$SLABLOCK_DIR\"; rm -f fanout; touch ../filler; {slablock} set other value; exit 3"
        );
        ended(&run(&script), 3, &[]);
        let script = "rm -r \"$SLABLOCK_DIR\"";
        ended(&run(script), 76, &[store.to_str().unwrap(), "removed"]);
        ended(&run("true"), 0, &[]);
    }
}

/// Every command that needs no store to answer answers as an empty store does, and makes none.
#[test]
fn a_store_that_is_not_there_yet_is_empty() {
    let place = Place::new();
    for made in ["", "store", "store/lost+found", "store/.gitkeep"] {
        // One after the other: nothing, an empty directory, one that a volume or a repository
        // begins with.
        match made {
            "" => {}
            "store/.gitkeep" => fs::write(place.root().join(made), "").unwrap(),
            made => fs::create_dir(place.root().join(made)).unwrap(),
        }
        let before = listed(place.root());
        let empty = Place::new();
        Cache::open(empty.store()).unwrap();
        for arguments in [
            &["status"][..],
            &["status", "--json"],
            &["status", "k"],
            &["get", "k"],
            &["get", ""],
            &["pop", "k"],
            &["delete", "k"],
            &["touch", "k"],
            &["keys"],
            &["keys", "-0"],
            &["keys", "--json"],
            &["stats", "--json"],
            &["expire"],
            &["cull"],
            &["clear"],
            &["evict", "t"],
            &["remove", "k"],
            &["average", "get", "a"],
            &["average", "pop", "a"],
            &["check"],
        ] {
            let answer = |place: &Place| {
                let mut command = slablock(arguments);
                command.env("SLABLOCK_DIR", place.store());
                let output = output_of(command);
                let said = said(&output).replace(place.root().to_str().unwrap(), "ROOT");
                // What an empty one takes on disk, how often it was asked, and when it was made.
                let counts = ["\"volume\"", "\"misses\"", "\"made_ms\""];
                let is_count = |line: &&str| counts.iter().any(|count| line.contains(count));
                let lines = said.lines().filter(|line| !is_count(line));
                (output.status.code(), lines.collect::<Vec<_>>().join("\n"))
            };
            assert_eq!(answer(&place), answer(&empty), "{arguments:?} {made}");
        }
        let mut volume = slablock(&["volume"]);
        volume.env("SLABLOCK_DIR", place.store());
        ended(&output_of(volume), 0, &["0\n"]);
        let mut repair = slablock(&["repair"]);
        repair.env("SLABLOCK_DIR", place.store());
        ended(&output_of(repair), 125, &["no store"]);
        assert_eq!(listed(place.root()), before);
    }
    // Something else is something else.
    fs::write(place.store().join("thesis.tex"), "").unwrap();
    let mut status = slablock(&["status"]);
    status.env("SLABLOCK_DIR", place.store());
    ended(&output_of(status), 125, &["not a slablock store", "slab"]);
    let mut status = slablock(&["status", "-d"]);
    status.arg(place.store().join("thesis.tex"));
    ended(&output_of(status), 125, &["not a directory"]);
}

/// All names below a directory.
fn listed(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(listed(&path));
        }
        all.push(path);
    }
    all.sort();
    all
}

/// It is said which file it is, what its mode is, and whose it is.
#[test]
fn what_may_not_be_used_is_said_to_be_so() {
    let Some(users) = with_users("places::what_may_not_be_used_is_said_to_be_so") else {
        return;
    };
    ended(
        &users.run(ALICE, &["--dir", "/mnt/alice/deep/store", "set", "k", "v"]),
        0,
        &[],
    );
    ended(
        &users.run(ALICE, &["--dir", "/mnt/alice/store", "set", "k", "v"]),
        0,
        &[],
    );
    let shards = "/mnt/alice/shards";
    FanoutCache::open(shards, 2).unwrap();
    for path in [Path::new(shards)]
        .into_iter()
        .chain(listed(Path::new(shards)).iter().map(|p| &**p))
    {
        chown(path, Some(ALICE), Some(ALICE)).unwrap();
    }
    fs::set_permissions("/mnt/alice/deep", Permissions::from_mode(0o700)).unwrap();
    let open = |dir: &str| fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
    // The directory above it, the directory itself, and then a file in it.
    for (store, culprit, mode) in [
        ("/mnt/alice/deep/store", "/mnt/alice/deep", "0700"),
        ("/mnt/alice/store", "/mnt/alice/store", "0700"),
        (shards, shards, "0700"),
        ("/mnt/alice/store", "/mnt/alice/store/", "0600"),
        (shards, "/mnt/alice/shards/", "0600"),
    ] {
        if culprit.ends_with('/') {
            open(store);
        }
        for arguments in [
            &["status"][..],
            &["get", "k"],
            &["set", "k", "w"],
            &["add", "k", "w"],
            &["incr", "n"],
            &["pop", "k"],
            &["delete", "k"],
            &["touch", "k"],
            &["keys"],
            &["stats"],
            &["volume"],
            &["expire"],
            &["cull"],
            &["clear"],
            &["evict", "t"],
            &["remove", "k"],
            &["average", "get", "a"],
            &["average", "pop", "a"],
            &["average", "add", "a", "1"],
            &["check"],
            &["repair"],
            &["run", "k", "--", "true"],
            &["memo", "--", "true"],
        ] {
            let output = users.run(BOB, &[&["--dir", store], arguments].concat());
            let words = [
                "ermission denied",
                culprit,
                mode,
                "alice (5001)",
                "bob (5002)",
            ];
            ended(&output, 125, &words);
            let said = said(&output);
            assert!(!said.contains("not a slablock store"), "{said}");
            if culprit == store {
                assert!(!said.contains(&format!("{store}/")), "{said}");
            }
        }
    }
    fs::create_dir("/mnt/alice/empty").unwrap();
    chown("/mnt/alice/empty", Some(ALICE), Some(ALICE)).unwrap();
    open("/mnt/alice/empty");
    for arguments in [&["set", "k", "w"][..], &["run", "k", "--", "true"]] {
        for store in ["/mnt/alice/empty", "/mnt/alice/empty/new"] {
            let output = users.run(BOB, &[&["--dir", store], arguments].concat());
            let words = [
                "ermission denied",
                "/mnt/alice/empty has mode 0755",
                "alice (5001)",
                "bob (5002)",
            ];
            ended(&output, 125, &words);
        }
    }
    ended(
        &users.run(ALICE, &["--dir", "/mnt/alice/store", "get", "k"]),
        0,
        &["v"],
    );
    println!("all told");
}
