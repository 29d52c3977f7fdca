//! Commands that are run to their end, also in namespaces of their own.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::children::{child, role};
use super::place::Place;
use super::process::KilledAtTheEnd;

/// Runs a command to its end.
pub fn output_of(mut command: Command) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = KilledAtTheEnd(command.spawn().expect("run the child"));
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let out = std::thread::spawn(move || read_all(out));
    let err = std::thread::spawn(move || read_all(err));
    Output {
        status: child.ended("the child"),
        stdout: out.join().unwrap_or_default(),
        stderr: err.join().unwrap_or_default(),
    }
}

fn read_all(stream: Option<impl std::io::Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        let _ = stream.read_to_end(&mut bytes);
    }
    bytes
}

/// Everything that a child said.
pub fn said(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// Runs a child that has to succeed and to say `words`: a test that was not found succeeds, too.
/// Returns all that it said.
pub fn succeeds(child: Command, words: &str) -> String {
    let output = output_of(child);
    let said = said(&output);
    assert!(output.status.success(), "{:?}: {said}", output.status);
    assert!(said.contains(words), "{said}");
    said
}

/// Runs the rest of the test `name` in a process of its own, alone with a directory.
pub fn in_a_process(name: &str, test: impl FnOnce(&Path)) {
    if let Some(dir) = role(name) {
        test(Path::new(&dir));
        return println!("all told");
    }
    let place = Place::new();
    succeeds(child(name, place.root().to_str().unwrap()), "all told");
}

/// Mounts something for this process and its children alone; gone with them. `false`: not here.
pub fn mount(kind: &str, options: &str, at: &Path) -> bool {
    is_mounted(&["-t", kind, "-o", options, kind, at.to_str().unwrap()])
}

/// Lets a file or directory be seen at another place, too.
pub fn bind(from: &Path, to: &Path) -> bool {
    is_mounted(&["--bind", from.to_str().unwrap(), to.to_str().unwrap()])
}

/// Like [`bind`], and nothing can be written there.
pub fn bind_read_only(from: &Path, to: &Path) -> bool {
    bind(from, to) && remount("bind,ro", to)
}

/// Changes the options of what is mounted at a place.
pub fn remount(options: &str, at: &Path) -> bool {
    is_mounted(&["-o", &format!("remount,{options}"), at.to_str().unwrap()])
}

fn is_mounted(arguments: &[&str]) -> bool {
    let output = Command::new("mount").args(arguments).output();
    output.is_ok_and(|output| output.status.success())
}

/// The command that runs `inner` in namespaces of its own, after the shell's command `before`.
/// `None`: not here.
pub fn unshared(options: &[&str], before: &str, inner: &Command) -> Option<Command> {
    let shell = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(options).args(["sh", "-c", script, "sh"]);
        command
    };
    let usable = shell(before).output();
    if !usable.is_ok_and(|output| output.status.success()) {
        return None;
    }
    let mut command = shell(&format!("{before} && exec \"$@\""));
    command.arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    Some(command)
}

/// Runs the test `name` in a mount namespace of its own, or says why not.
pub fn in_a_namespace(name: &str, argument: &Path) {
    let options: &[&str] = match nix::unistd::geteuid().is_root() {
        true => &["--mount"],
        false => &["--mount", "--map-root-user"],
    };
    let inner = child(name, argument.to_str().unwrap());
    let Some(command) = unshared(options, "true", &inner) else {
        println!("skipped: no mount namespace to be had here");
        return;
    };
    let output = output_of(command);
    let said = said(&output);
    assert!(output.status.success(), "{:?}: {said}", output.status);
    assert!(
        said.contains("all told") || said.contains("skipped"),
        "{said}"
    );
    if said.contains("skipped") {
        println!("{said}");
    }
}
