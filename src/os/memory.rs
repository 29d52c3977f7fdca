//! Memory of an amount that is read from a file, or is a value's: if there is not so much, that is
//! an error which says how much was wanted, not the end of the process. And asking the processor
//! for memory before it is read.

use std::io;

fn lacking(bytes: usize) -> io::Error {
    let what = format!("there is no memory for {bytes} bytes");
    io::Error::new(io::ErrorKind::OutOfMemory, what)
}

/// Makes room for so many more, and perhaps for others that follow.
pub(crate) fn reserve<T>(into: &mut Vec<T>, more: usize) -> io::Result<()> {
    let bytes = more.saturating_mul(size_of::<T>());
    into.try_reserve(more).map_err(|_| lacking(bytes))
}

/// Makes room for so many more, and no more than these.
pub(crate) fn reserve_exact<T>(into: &mut Vec<T>, more: usize) -> io::Result<()> {
    let bytes = more.saturating_mul(size_of::<T>());
    into.try_reserve_exact(more).map_err(|_| lacking(bytes))
}

/// So many copies of one value.
pub(crate) fn filled<T: Clone>(value: T, count: usize) -> io::Result<Vec<T>> {
    let mut all = Vec::new();
    reserve_exact(&mut all, count)?;
    all.resize(count, value);
    Ok(all)
}

pub(crate) fn copy(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut copy = Vec::new();
    reserve_exact(&mut copy, bytes.len())?;
    copy.extend_from_slice(bytes);
    Ok(copy)
}

/// Says that what lies there will be read soon.
#[inline(always)]
#[allow(unsafe_code)]
pub(crate) fn hint(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: nothing is read, whatever the address; every x86-64 has the instruction.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn too_much_is_an_error_that_says_how_much() {
        let error = reserve(&mut Vec::<u64>::new(), 1 << 58).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
        assert!(error.to_string().contains(&(1_u64 << 61).to_string()));
        assert!(filled(0_u8, usize::MAX).is_err());
        assert_eq!(filled(7, 2).unwrap(), [7, 7]);
        assert_eq!(copy(b"bytes").unwrap(), b"bytes");
    }
}
