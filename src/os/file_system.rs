//! Which file system a path is on, and whether memory can be shared there.

use std::io;
use std::path::Path;

use nix::sys::statfs::statfs;

use crate::sync::crash_point;

/// The file-system type of `path`, as the magic number that the kernel gives.
pub(crate) fn fs_magic(path: &Path) -> io::Result<i64> {
    crash_point();
    // A 32-bit number on some machines.
    #[allow(clippy::useless_conversion)]
    Ok(i64::from(statfs(path)?.filesystem_type().0))
}

/// The name of a file system on which mappings are not coherent between machines, or not at all.
pub(crate) fn incoherent_fs(magic: i64) -> Option<&'static str> {
    // Numbers of linux/magic.h and of the file systems' own headers.
    Some(match magic & 0xffff_ffff {
        0x6969 => "NFS",
        0x517b => "SMB",
        0xff53_4d42 => "CIFS",
        0xfe53_4d42 => "SMB2",
        0x0102_1997 => "9p",
        0x6573_5546 => "FUSE",
        0x00c3_6400 => "Ceph",
        0x5346_414f | 0x6b41_4653 => "AFS",
        0x7375_7245 => "Coda",
        0x0116_1970 => "GFS2",
        0x7461_636f => "OCFS2",
        0x0bd0_0bd0 => "Lustre",
        0xaad7_aaea => "PanFS",
        0x4750_4653 => "GPFS",
        0x7372_6562 => "VirtualBox shared folder",
        0xbacb_acbc => "VMware shared folder",
        0x786f_4256 => "VirtualBox shared folder",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_known_and_local_ones_are_not() {
        assert_eq!(incoherent_fs(0x6969), Some("NFS"));
        assert_eq!(incoherent_fs(0x6573_5546), Some("FUSE"));
        // The kernel's long is signed on some machines.
        assert_eq!(
            incoherent_fs(i64::from(0xff53_4d42_u32 as i32)),
            Some("CIFS")
        );
        for local in [
            0xef53,
            0x0102_1994,
            0x5846_5342,
            0x9123_683e_u32 as i64,
            0x794c_7630,
        ] {
            assert_eq!(incoherent_fs(local), None);
        }
    }
}
