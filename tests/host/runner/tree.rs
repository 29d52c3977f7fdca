//! `slablock run --tree`: what a keeper guards, and what becomes of it.

use super::*;

/// A program that leaves the session, closes all descriptors but the first three, says `up` and its
/// number, and ends with the pipe.
pub fn stray(pipe: &str) -> String {
    format!(
        "setsid bash -c 'for f in /proc/$$/fd/*; do n=${{f##*/}}; [ $n -gt 2 ] && eval \"exec $n>&-\"; done
        echo up; echo $$; read line < {pipe}'"
    )
}

pub fn pipe(shop: &Shop) -> String {
    let pipe = shop.path("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    pipe
}

/// The process that stands between slablock and its command.
pub fn keeper_of(running: &Running) -> i32 {
    let [keeper] = children_of(running.pid() as i32)[..] else {
        panic!("one keeper");
    };
    let words = fs::read_to_string(format!("/proc/{keeper}/cmdline")).unwrap();
    assert!(words.contains("keep-tree"), "{words}");
    keeper
}

pub fn children_of(pid: i32) -> Vec<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let children = children.split_whitespace();
    children.map(|child| child.parse().unwrap()).collect()
}

#[test]
fn a_tree_keeps_the_key_whatever_it_closes() {
    let shop = Shop::new();
    let pipe = pipe(&shop);
    let script = format!("{} & exit 7", stray(&pipe));
    let running = shop.start(&["run", "--tree", "k", "--", "sh", "-c", &script]);
    running.expect("up");
    let left: i32 = running.line().parse().unwrap();
    // The command has ended: what it left behind is an orphan, which its keeper has adopted.
    let keeper = keeper_of(&running);
    until("it is an orphan", || {
        let stat = fs::read_to_string(format!("/proc/{left}/stat")).unwrap();
        stat.contains(&format!(" S {keeper} "))
    });
    assert!(!shop.is_free("k"));
    fs::write(&pipe, "\n").unwrap();
    running.silence();
    assert_eq!(running.finish(), 7);
    // It was given back.
    let next = shop.run(&["run", "-n", "k", "--", "true"]);
    assert_eq!((next.code, next.err.as_str()), (0, ""));
}

#[test]
fn a_tree_ends_with_slablock() {
    let shop = Shop::new();
    let pipe = pipe(&shop);
    let script = format!("{} & echo here; read line", stray(&pipe));
    let running = shop.start(&["run", "--tree", "k", "--", "sh", "-c", &script]);
    let said = [running.line(), running.line(), running.line()];
    assert!(
        said.contains(&"up".to_owned()) && said.contains(&"here".to_owned()),
        "{said:?}"
    );
    running.signal(Signal::SIGKILL);
    // Nobody reads the pipe any more, nobody writes here.
    running.silence();
    let next = shop.run(&["run", "k", "--", "echo", "mine"]);
    assert_eq!(next.out, "mine\n");
    assert!(next.err.contains("died holding it"), "{}", next.err);
}

#[test]
fn killing_the_keeper_of_a_tree_frees_the_key() {
    let shop = Shop::new();
    let pipe = pipe(&shop);
    let script = format!("{} & wait", stray(&pipe));
    let mut running = shop.start(&["run", "--tree", "k", "--", "sh", "-c", &script]);
    running.expect("up");
    let left: i32 = running.line().parse().unwrap();
    kill(Pid::from_raw(keeper_of(&running)), Signal::SIGKILL).unwrap();
    assert_eq!(code(running.child.wait().unwrap()), 128 + 9);
    assert!(running.complaint().contains("keeper was killed"));
    shop.run(&["run", "-n", "k", "--", "true"])
        .complains(0, &["died holding it"]);
    kill(Pid::from_raw(left), Signal::SIGKILL).unwrap();
    running.silence();
}

/// Where nothing is left behind, a keeper is not noticed.
#[test]
fn a_command_in_a_tree_is_told_and_tells_all_that_it_would_otherwise() {
    let shop = Shop::new();
    let run = |command: &[&str]| shop.run(&[&["run", "--tree", "k", "--"], command].concat());
    let script = "echo $SLABLOCK_KEY $#; ls -l /proc/$$/fd | grep -c store; exit 7";
    let outcome = run(&["sh", "-c", script, "sh", "one", "two"]);
    assert_eq!(
        (outcome.code, outcome.out.as_str()),
        (7, "k 2\n2\n"),
        "{}",
        outcome.err
    );
    run(&["no-such-command"]).complains(127, &["no-such-command"]);
    fs::write(shop.path("data"), "").unwrap();
    run(&[&shop.path("data")]).complains(126, &["could not be started"]);
    assert!(shop.is_free("k"));
    for number in [9, 15, 34] {
        let script = format!("kill -{number} $$");
        assert_eq!(run(&["bash", "-c", &script]).code, 128 + number);
    }
    // A signal reaches the command, and when that has ended, what it left behind.
    let pipe = pipe(&shop);
    let script = format!(
        "trap 'echo got it; exit 5' USR1; echo $$; {} & while :; do sleep 0.01; done",
        stray(&pipe)
    );
    let running = shop.start(&["run", "-q", "--tree", "k", "--", "bash", "-c", &script]);
    let said = [running.line(), running.line(), running.line()];
    assert!(said.contains(&"up".to_owned()), "{said:?}");
    send(10, &running);
    running.expect("got it");
    let keeper = keeper_of(&running);
    until("the keeper knows that the command has ended", || {
        children_of(keeper).iter().all(|pid| {
            let words = fs::read_to_string(format!("/proc/{pid}/cmdline"));
            words.is_ok_and(|words| !words.is_empty() && !words.contains("trap"))
        })
    });
    send(15, &running);
    running.silence();
    assert_eq!(running.finish(), 5);
}

#[test]
fn a_signal_that_comes_with_the_end_of_the_command_reaches_what_it_left() {
    let shop = Shop::new();
    let pipe = pipe(&shop);
    let script = format!("{} & wait", stray(&pipe));
    let running = shop.start(&["run", "-q", "--tree", "k", "--", "bash", "-c", &script]);
    running.expect("up");
    running.line();
    let keeper = Pid::from_raw(keeper_of(&running));
    let [command] = children_of(keeper.as_raw())[..] else {
        panic!("one command");
    };
    // The keeper learns of both at once.
    kill(keeper, Signal::SIGSTOP).unwrap();
    until_stopped(keeper.as_raw() as u32);
    kill(Pid::from_raw(command), Signal::SIGKILL).unwrap();
    until_in_state(command as u32, 'Z');
    kill(keeper, Signal::SIGTERM).unwrap();
    kill(keeper, Signal::SIGCONT).unwrap();
    running.silence();
    assert_eq!(running.finish(), 128 + 9);
}

#[test]
fn a_lost_lease_ends_the_whole_tree() {
    let shop = Shop::new();
    let pipe = pipe(&shop);
    let script = format!(
        "trap 'echo refused' TERM; {} & while :; do sleep 0.01; done",
        stray(&pipe)
    );
    let run = [
        "run", "--tree", "--expire", "0.3", "k", "--", "bash", "-c", &script,
    ];
    let running = shop.start(&run);
    running.expect("up");
    running.line();
    assert_eq!(shop.run(&["remove", "k"]).code, 0);
    running.expect("refused");
    running.silence();
    assert!(running.complaint().contains("ending the command"));
    assert_eq!(running.finish(), 76);
}

/// Somebody who owns nothing here.
const NOBODY: u32 = 65_534;

/// The copy of a program with another mode, where everybody may execute it.
fn copy(shop: &Shop, of: &str, name: &str, mode: u32) -> String {
    let path = shop.path(name);
    fs::copy(of, &path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

#[test]
fn what_may_not_be_killed_keeps_the_key_of_its_tree() {
    if !geteuid().is_root() {
        println!("left out: only root can make a program with privileges of its own");
        return;
    }
    let shop = Shop::new();
    fs::set_permissions(shop.dir.root(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(shop.store()).unwrap();
    chown(shop.store(), Some(NOBODY), Some(NOBODY)).unwrap();
    let slablock = copy(&shop, SLABLOCK, "slablock", 0o755);
    let this = std::env::current_exe().unwrap();
    let privileged = copy(&shop, this.to_str().unwrap(), "privileged", 0o4755);
    let go = shop.path("go");
    let role = kit::child("runner::tree::child_with_privileges", &go);
    let words: Vec<_> = role.get_args().map(|word| word.to_str().unwrap()).collect();
    let script = format!("{privileged} {} & read line", words.join(" "));
    let as_nobody = |words: &[&str]| {
        let mut command = Command::new(&slablock);
        command.args(words).env("SLABLOCK_DIR", shop.store());
        command.uid(NOBODY).gid(NOBODY);
        command
    };
    let mut command = as_nobody(&["run", "--tree", "k", "--", "sh", "-c", &script]);
    command.envs(
        role.get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    let running = Running::start(command);
    let said: Vec<String> = running
        .out
        .iter()
        .take_while(|line| !line.contains("told all"))
        .collect();
    if said.iter().any(|line| line.contains("left out")) {
        println!("left out: programs have no privileges of their own here");
        return;
    }
    let keeper = keeper_of(&running);
    let left = || fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children"));
    running.signal(Signal::SIGKILL);
    until("the command is killed", || {
        let left = left().unwrap();
        let pid = left.trim();
        let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.starts_with(&privileged)
    });
    let next = Outcome::of(&mut as_nobody(&["run", "-n", "k", "--", "true"]));
    assert_eq!(next.code, 75, "{}", next.err);
    fs::write(&go, "").unwrap();
    let next = Outcome::of(&mut as_nobody(&["run", "k", "--", "echo", "mine"]));
    assert_eq!(next.out, "mine\n");
    assert!(next.err.contains("died holding it"), "{}", next.err);
}

#[test]
fn child_with_privileges() {
    if let Some(go) = kit::role("runner::tree::child_with_privileges") {
        match setuid(0.into()) {
            Ok(()) => println!("told all"),
            Err(_) => println!("left out\ntold all"),
        }
        until("it is over", || fs::exists(&go).unwrap());
    }
}

/// In the background of a tree nothing is nobody's business.
#[test]
fn what_a_tree_waits_for_may_not_wait_for_the_tree() {
    let shop = Shop::new();
    let script = format!("{SLABLOCK} run k -- true & exit 0");
    shop.run(&["run", "--tree", "k", "--", "sh", "-c", &script])
        .complains(0, &["would never end"]);
}
