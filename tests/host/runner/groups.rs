//! `slablock run --tree` in its process group and at its terminal.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::thread::sleep;
use std::time::Duration;

use nix::pty::openpty;
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use nix::unistd::{getpgid, setsid};

use super::tree::{keeper_of, pipe, stray};
use super::*;

const INTERRUPT: &[u8] = b"\x03";
const QUIT: &[u8] = b"\x1c";
const STOP: &[u8] = b"\x1a";

fn pid_of(running: &Running) -> Pid {
    Pid::from_raw(running.pid() as i32)
}

/// A tree in a process group of its own.
fn start_group(shop: &Shop, script: &str) -> Running {
    let mut command = shop.command(&["run", "--tree", "k", "--", "sh", "-c", script]);
    command.process_group(0);
    Running::start(command)
}

fn kill_group(running: &Running) {
    kill(Pid::from_raw(-pid_of(running).as_raw()), Signal::SIGKILL).unwrap();
}

#[test]
fn what_kills_the_group_of_slablock_ends_the_whole_tree() {
    let shop = Shop::new();
    let pipe = pipe(&shop);
    let running = start_group(&shop, &format!("{}; true", stray(&pipe)));
    running.expect("up");
    let left = running.line();
    let keeper = Pid::from_raw(keeper_of(&running));
    assert_ne!(getpgid(Some(keeper)), Ok(pid_of(&running)));
    kill_group(&running);
    let script = format!("kill -0 {left} || echo alone");
    let next = shop.run(&["run", "k", "--", "sh", "-c", &script]);
    assert_eq!(next.out, "alone\n", "{}", next.err);
    assert!(next.err.contains("died holding it"), "{}", next.err);
    running.silence();
}

/// Whenever it strikes: while there is no keeper, no command, or nothing that the command started.
#[test]
fn a_group_that_is_killed_while_it_starts_leaves_nothing_behind() {
    let shop = Shop::new();
    let pipe = pipe(&shop);
    let script = format!("setsid -f sh -c 'exec 64>&- 65>&- 66>&-; read line < {pipe}'; wait");
    for step in 0..40 {
        let running = start_group(&shop, &script);
        sleep(Duration::from_micros(500) * step);
        kill_group(&running);
        let look = format!("cat /proc/[0-9]*/cmdline | grep -azc '^exec 64.*< {pipe}'");
        let next = shop.run(&["run", "-q", "k", "--", "sh", "-c", &look]);
        assert_eq!(next.out, "0\n", "{step}: {}", next.err);
    }
}

/// Its descriptors keep it as they do without a keeper.
#[test]
fn what_kills_slablock_and_the_keeper_leaves_the_key_to_what_is_left() {
    let shop = Shop::new();
    let pipe = pipe(&shop);
    let script = format!("setsid sh -c 'echo up; read line < {pipe}'; true");
    let running = start_group(&shop, &script);
    running.expect("up");
    kill(Pid::from_raw(keeper_of(&running)), Signal::SIGKILL).unwrap();
    assert!(running.complaint().contains("keeper was killed"));
    assert!(!shop.is_free("k"));
    fs::write(&pipe, "\n").unwrap();
    running.silence();
    shop.run(&["run", "k", "--", "true"])
        .complains(0, &["died holding it"]);
}

/// A command as the leader of a session at a terminal, and the terminal's other end.
#[allow(unsafe_code)]
fn at_terminal(mut command: Command, set: impl Fn(&mut LocalFlags)) -> (Running, File) {
    let pty = openpty(None, None).unwrap();
    let mut settings = tcgetattr(&pty.slave).unwrap();
    settings.local_flags.remove(LocalFlags::ECHO);
    set(&mut settings.local_flags);
    tcsetattr(&pty.slave, SetArg::TCSANOW, &settings).unwrap();
    let enter = |terminal: &OwnedFd| {
        let terminal = std::os::fd::AsRawFd::as_raw_fd(terminal);
        move || {
            setsid()?;
            // SAFETY: all make system calls, between fork and exec.
            let done = unsafe {
                // Whoever runs the tests may ignore it (`nohup`), and so would the shell.
                nix::libc::signal(nix::libc::SIGHUP, nix::libc::SIG_DFL);
                nix::libc::ioctl(terminal, nix::libc::TIOCSCTTY, 0);
                nix::libc::dup2(terminal, 0)
            };
            nix::errno::Errno::result(done)?;
            Ok(())
        }
    };
    // SAFETY: see above.
    unsafe { command.pre_exec(enter(&pty.slave)) };
    let running = Running::start(command);
    (running, pty.master.into())
}

#[test]
fn a_key_at_the_terminal_reaches_the_command_once_and_then_what_it_left() {
    let shop = Shop::new();
    let pipe = pipe(&shop);
    let script = format!(
        "trap 'echo got it' INT; trap 'exit 5' QUIT; setsid -f sh -c 'echo up; read line < {pipe}'
        while :; do sleep 0.01; done"
    );
    let command = shop.command(&["run", "--tree", "k", "--", "bash", "-c", &script]);
    let (running, mut terminal) = at_terminal(command, |_| {});
    running.expect("up");
    let keeper = keeper_of(&running);
    until("the keeper waits", || {
        let stat = fs::read_to_string(format!("/proc/{keeper}/stat")).unwrap();
        stat.contains(&format!(") S {} {keeper} {keeper} ", running.pid()))
    });
    terminal.write_all(INTERRUPT).unwrap();
    running.expect("got it");
    assert_eq!(
        getpgid(Some(Pid::from_raw(keeper))),
        Ok(Pid::from_raw(keeper))
    );
    terminal.write_all(QUIT).unwrap();
    until("the command has ended", || {
        let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children"));
        let mut words = children.unwrap();
        words.retain(|c| c != '\n');
        words.split_whitespace().all(|pid| {
            let mut text = String::new();
            let file = File::open(format!("/proc/{pid}/cmdline"));
            let _ = file.and_then(|mut file| file.read_to_string(&mut text));
            !text.contains("trap") && !text.is_empty()
        })
    });
    assert!(!shop.is_free("k"));
    terminal.write_all(INTERRUPT).unwrap();
    running.silence();
    assert_eq!(running.finish(), 5);
}

/// A shell at a terminal of its own, whose tree has said `up` and was stopped by a key.
fn stopped_at_terminal(shop: &Shop, script: &str) -> (Running, File) {
    let mut command = Command::new("bash");
    command.args(["-c", script]);
    command.env("SLABLOCK_DIR", shop.store());
    let (running, mut terminal) = at_terminal(command, |_| {});
    running.expect("up");
    terminal.write_all(STOP).unwrap();
    running.expect(&format!("stopped {}", 128 + Signal::SIGTSTP as i32));
    (running, terminal)
}

#[test]
fn a_shell_stops_a_tree_at_a_key_and_goes_on_with_it() {
    let shop = Shop::new();
    let script = format!(
        "exec 2> /dev/tty; set -m; {SLABLOCK} run --tree k -- sh -c 'echo up; read line; echo \"$line\"'
        echo stopped $?; fg > /dev/null; echo ended $?"
    );
    let (running, mut terminal) = stopped_at_terminal(&shop, &script);
    assert!(!shop.is_free("k"));
    terminal.write_all(b"from the terminal\n").unwrap();
    running.expect("from the terminal");
    running.expect("ended 0");
    assert_eq!(running.finish(), 0);
}

/// What is stopped and has nobody who could have it go on is ended by the kernel.
#[test]
fn a_stopped_tree_ends_when_its_shell_is_killed() {
    let shop = Shop::new();
    let pipe = pipe(&shop);
    let script = format!(
        "exec 2> /dev/tty; set -m; {SLABLOCK} run --tree k -- sh -c 'echo up; read line; echo no'
        echo stopped $?; exec cat {pipe}"
    );
    let (running, _terminal) = stopped_at_terminal(&shop, &script);
    running.signal(Signal::SIGKILL);
    let next = shop.run(&["run", "k", "--", "true"]);
    assert_eq!(next.code, 0, "{}", next.err);
    running.silence();
}

/// `stty tostop` stops what writes from the background.
#[test]
fn a_keeper_complains_at_any_terminal() {
    let shop = Shop::new();
    let line =
        format!("{SLABLOCK} run --tree k -- no-such-command 2> /dev/tty; echo $?; read line");
    let mut command = Command::new("sh");
    command.args(["-c", &line]);
    command.env("SLABLOCK_DIR", shop.store());
    let (running, mut terminal) = at_terminal(command, |flags| flags.insert(LocalFlags::TOSTOP));
    let mut said = String::new();
    BufReader::new(&terminal).read_line(&mut said).unwrap();
    assert!(said.contains("no-such-command"), "{said}");
    running.expect("127");
    terminal.write_all(b"\n").unwrap();
    running.finish();
}
