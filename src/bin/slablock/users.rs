//! `/etc/passwd`, read as a file: the C library's functions for it differ between a static build
//! and another one, and ask servers that may be away.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

const PASSWD: &str = "/etc/passwd";

/// The text of `/etc/passwd`. A machine without one has no users in it.
pub fn passwd() -> io::Result<Vec<u8>> {
    match fs::read(PASSWD) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}

/// The home that `passwd` names for a user, as it stands there; of several lines the first counts.
pub fn home_of(passwd: &[u8], user: u32) -> Option<PathBuf> {
    let fields = entry_of(passwd, user)?;
    let home = OsStr::from_bytes(fields[5]);
    Some(Path::new(home).to_owned())
}

/// "alice (1000)", or the number alone.
pub fn named(user: u32) -> String {
    let passwd = passwd().unwrap_or_default();
    match entry_of(&passwd, user) {
        Some(fields) => format!("{} ({user})", String::from_utf8_lossy(fields[0])),
        None => user.to_string(),
    }
}

/// NAME:PASSWORD:USER:GROUP:COMMENT:HOME, and perhaps :SHELL. What begins with `+` is no user, but
/// asks for more.
fn entry_of(passwd: &[u8], user: u32) -> Option<Vec<&[u8]>> {
    let lines = passwd.split(|byte| *byte == b'\n');
    let users = lines.filter(|line| !line.starts_with(b"#") && !line.starts_with(b"+"));
    let entries = users.map(|line| line.split(|byte| *byte == b':').collect::<Vec<_>>());
    let number = |field: &[u8]| str::from_utf8(field).ok()?.parse::<u32>().ok();
    let mut ours = entries.filter(|fields| fields.len() >= 6 && number(fields[2]) == Some(user));
    ours.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_are_found_by_number() {
        let passwd = b"# users\n\
            root:x:0:0:root:/root:/bin/bash\n\
            \n\
            short:x:5\n\
            +::::::\n\
            odd:x:five:5::/five:/bin/sh\n\
            alice:x:5:5:A, B:/home/alice\n\
            toor:x:0:0::/other:/bin/sh\n\
            byte:x:6:6::/home/\xff:/bin/sh";
        let home = |user| home_of(passwd, user);
        assert_eq!(home(0), Some(PathBuf::from("/root")));
        assert_eq!(home(5), Some(PathBuf::from("/home/alice")));
        assert_eq!(home(6).unwrap().as_os_str().as_bytes(), b"/home/\xff");
        assert_eq!(home(7), None);
        assert_eq!(home_of(b"", 0), None);
    }
}
