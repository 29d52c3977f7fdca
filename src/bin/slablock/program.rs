//! A program with its arguments and its environment, in the form in which the kernel takes them.
//!
//! Everything that `execvp` would work out at the last moment is worked out here, before there is a
//! child: a child that shares its parent's memory has a small stack, and the C library builds the
//! arguments of a script without `#!` on it, however many they are.

use std::cell::Cell;
use std::ffi::{CStr, CString, OsStr, OsString, c_char};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::{env, io, ptr};

use nix::errno::Errno;

/// No file has a longer name.
const NAME_BYTES_MAX: usize = 255;
/// Where programs are looked for when there is no PATH, as the C library does.
const PATH_OF_SYSTEM: &str = "/bin:/usr/bin";

/// A program that can be executed without further memory.
pub struct Program {
    /// What to try, in this order.
    candidates: Vec<CString>,
    is_searched: bool,
    /// The shell, then the arguments, then null. Without the first they are those of the program
    /// itself; with it, and the script's path in place of the program's name, those of a shell
    /// that runs it.
    pointers: Vec<Cell<*const c_char>>,
    environment: Vec<*const c_char>,
    /// What the pointers point to: the arguments, then the environment.
    strings: Vec<CString>,
}

impl Program {
    /// The shell that runs scripts without `#!`.
    pub const SHELL: &CStr = c"/bin/sh";

    /// `command` is not empty. `variables` come on top of this process's environment.
    pub fn new(command: &[OsString], variables: &[(&str, &OsStr)]) -> io::Result<Program> {
        let candidates = candidates(&command[0], env::var_os("PATH"))?;
        Program::at(candidates, !is_path(&command[0]), command, variables)
    }

    /// The program that this process runs, with the words of another command line, also when its
    /// file was replaced or removed.
    pub fn this_one(words: &[OsString], variables: &[(&str, &OsStr)]) -> io::Result<Program> {
        let path = env::current_exe()?.into_os_string();
        let candidates = vec![CString::new(path.into_vec())?, c"/proc/self/exe".to_owned()];
        Program::at(candidates, true, words, variables)
    }

    fn at(
        candidates: Vec<CString>,
        is_searched: bool,
        command: &[OsString],
        variables: &[(&str, &OsStr)],
    ) -> io::Result<Program> {
        let inherited =
            env::vars_os().filter(|(name, _)| variables.iter().all(|(own, _)| name != own));
        let own = variables
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let assignments = inherited.chain(own).map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            name
        });
        let strings = command.iter().cloned().chain(assignments);
        let strings = strings
            .map(|string| CString::new(string.into_vec()))
            .collect::<Result<Vec<_>, _>>()?;
        let (arguments, environment) = strings.split_at(command.len());
        let null = || [ptr::null()];
        let arguments = arguments.iter().map(|string| string.as_ptr());
        let arguments = [Program::SHELL.as_ptr()].into_iter().chain(arguments);
        let environment = environment.iter().map(|string| string.as_ptr());
        Ok(Program {
            candidates,
            is_searched,
            pointers: arguments.chain(null()).map(Cell::new).collect(),
            environment: environment.chain(null()).collect(),
            strings,
        })
    }

    /// The paths at which it may be.
    pub fn candidates(&self) -> impl Iterator<Item = &CStr> {
        self.candidates.iter().map(CString::as_c_str)
    }

    /// A search for the program, before its first step.
    pub fn search(&self) -> Search {
        Search {
            is_along_path: self.is_searched,
            is_denied: false,
        }
    }

    /// Pointers to its arguments, and a null.
    pub fn arguments(&self) -> &[Cell<*const c_char>] {
        &self.pointers[1..]
    }

    /// Pointers to the arguments of a shell that runs the script at `path`, and a null. Good until
    /// `forget_shell`, which has to follow if the shell could not be executed.
    pub fn arguments_of_shell(&self, path: &CStr) -> &[Cell<*const c_char>] {
        self.pointers[1].set(path.as_ptr());
        &self.pointers
    }

    pub fn forget_shell(&self) {
        self.pointers[1].set(self.strings[0].as_ptr());
    }

    /// Pointers to its environment, and a null.
    pub fn environment(&self) -> &[*const c_char] {
        &self.environment
    }
}

/// What trying one candidate after another came to, by the rules of `execvp`.
pub struct Search {
    is_along_path: bool,
    /// There was one, which this user may not execute.
    is_denied: bool,
}

impl Search {
    /// Whether `error` ends the search, as one that another directory cannot better.
    pub fn is_ended_by(&mut self, error: Errno) -> bool {
        match error {
            _ if !self.is_along_path => true,
            Errno::EACCES => {
                self.is_denied = true;
                false
            }
            // No such file, for whatever reason.
            Errno::ENOENT
            | Errno::ENOTDIR
            | Errno::ENAMETOOLONG
            | Errno::ENODEV
            | Errno::ESTALE
            | Errno::ETIMEDOUT => false,
            _ => true,
        }
    }

    /// What it has come to when there is nothing left to try.
    pub fn in_vain(&self) -> Errno {
        match self.is_denied {
            true => Errno::EACCES,
            false => Errno::ENOENT,
        }
    }
}

fn is_path(name: &OsStr) -> bool {
    name.as_bytes().contains(&b'/')
}

/// Where a program of that name may be: as named if there is a slash in it, else in each directory
/// of PATH.
fn candidates(name: &OsStr, path: Option<OsString>) -> io::Result<Vec<CString>> {
    if name.is_empty() {
        return Err(Errno::ENOENT.into());
    }
    if is_path(name) {
        return Ok(vec![CString::new(name.as_bytes())?]);
    }
    let name = name.as_bytes();
    if name.len() > NAME_BYTES_MAX {
        return Err(Errno::ENAMETOOLONG.into());
    }
    let path = path.unwrap_or_else(|| PATH_OF_SYSTEM.into());
    let directories = path.as_bytes().split(|byte| *byte == b':');
    let paths = directories.map(|directory| match directory {
        // An empty entry is the current directory.
        b"" => name.to_vec(),
        directory => [directory, b"/", name].concat(),
    });
    Ok(paths.map(CString::new).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(name: &str, path: Option<&str>) -> Vec<String> {
        let found = candidates(name.as_ref(), path.map(OsString::from)).unwrap();
        let text = found.into_iter().map(|path| path.into_string().unwrap());
        text.collect()
    }

    #[test]
    fn a_name_is_looked_for_along_path_and_a_path_is_taken_as_it_is() {
        assert_eq!(at("a/b", Some("/bin")), ["a/b"]);
        assert_eq!(at("x", Some("/a::/b/:")), ["/a/x", "x", "/b//x", "x"]);
        assert_eq!(at("x", Some("")), ["x"]);
        assert_eq!(at("x", None), ["/bin/x", "/usr/bin/x"]);
        let too_long = "x".repeat(NAME_BYTES_MAX + 1);
        assert!(candidates(too_long.as_ref(), None).is_err());
        assert!(candidates("".as_ref(), None).is_err());
    }

    #[test]
    fn a_denial_is_remembered_and_what_no_directory_can_better_ends_the_search() {
        let mut search = Search {
            is_along_path: true,
            is_denied: false,
        };
        assert!(!search.is_ended_by(Errno::ENOTDIR));
        assert_eq!(search.in_vain(), Errno::ENOENT);
        assert!(!search.is_ended_by(Errno::EACCES));
        assert!(!search.is_ended_by(Errno::ENOENT));
        assert_eq!(search.in_vain(), Errno::EACCES);
        assert!(search.is_ended_by(Errno::E2BIG));
        search.is_along_path = false;
        assert!(search.is_ended_by(Errno::EACCES));
    }
}
