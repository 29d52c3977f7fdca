//! One value in the log, byte by byte.

/// Records begin at multiples of that.
pub(crate) const RECORD_ALIGN: u64 = 16;
pub(super) const HEAD_BYTES: usize = 24;
const MAGIC: u32 = u32::from_le_bytes(*b"slr1");
/// What the checksum is over begins here.
const SUMMED_FROM: usize = 8;

/// Where a value lies: `segment << 32 | offset in units of 16 bytes`. No two values ever have the
/// same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Location(u64);

impl Location {
    pub(crate) fn new(segment: u32, offset: u64) -> Location {
        let unit = offset / RECORD_ALIGN;
        Location(u64::from(segment) << 32 | unit)
    }

    /// `None`: no value lies in segment 0.
    pub(crate) fn from_bits(bits: u64) -> Option<Location> {
        (bits >> 32 != 0).then_some(Location(bits))
    }

    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    pub(crate) fn segment(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// In bytes.
    pub(crate) fn offset(self) -> u64 {
        (self.0 & 0xffff_ffff) * RECORD_ALIGN
    }
}

/// How much of a segment a value takes.
pub(crate) fn record_bytes(key_len: usize, tag_len: usize, value_len: usize) -> u64 {
    let bytes = (HEAD_BYTES + key_len + tag_len + value_len) as u64;
    bytes.next_multiple_of(RECORD_ALIGN)
}

/// The fields before the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) crc: u32,
    pub(super) place: Location,
    pub(super) value_len: usize,
    pub(super) key_len: usize,
    pub(super) tag_len: usize,
}

impl Head {
    pub(super) fn of(place: Location, key: &[u8], tag: &[u8], value: &[u8]) -> Head {
        Head {
            crc: 0,
            place,
            value_len: value.len(),
            key_len: key.len(),
            tag_len: tag.len(),
        }
    }

    /// Everything before the value, with the checksum over that and the value.
    pub(super) fn encode(self, key: &[u8], tag: &[u8], value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + key.len() + tag.len());
        bytes.extend_from_slice(&MAGIC.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.place.bits().to_le_bytes());
        bytes.extend_from_slice(&(self.value_len as u32).to_le_bytes());
        bytes.extend_from_slice(&(self.key_len as u16).to_le_bytes());
        bytes.extend_from_slice(&[self.tag_len as u8, 0]);
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(tag);
        let mut crc = Head::checksum(&bytes);
        crc.update(value);
        bytes[4..SUMMED_FROM].copy_from_slice(&crc.finalize().to_le_bytes());
        bytes
    }

    /// `None`: no record begins like that.
    pub(super) fn decode(bytes: &[u8]) -> Option<Head> {
        let u32_at = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let rest = u32_at(20)?;
        let (low, high) = (u64::from(u32_at(8)?), u64::from(u32_at(12)?));
        let head = Head {
            crc: u32_at(4)?,
            place: Location::from_bits(low | high << 32)?,
            value_len: u32_at(16)? as usize,
            key_len: (rest & 0xffff) as usize,
            tag_len: (rest >> 16 & 0xff) as usize,
        };
        (u32_at(0)? == MAGIC && rest >> 24 == 0).then_some(head)
    }

    /// Of what comes before the value; to be continued with it.
    pub(super) fn checksum(before_value: &[u8]) -> crc32fast::Hasher {
        let mut crc = crc32fast::Hasher::new();
        crc.update(before_value.get(SUMMED_FROM..).unwrap_or_default());
        crc
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_come_back_and_nonsense_does_not() {
        let place = Location::new(3, 4096);
        assert_eq!((place.segment(), place.offset()), (3, 4096));
        let (key, tag, value) = (&b"key"[..], &b"t"[..], &b"some value"[..]);
        let bytes = Head::of(place, key, tag, value).encode(key, tag, value);
        let head = Head::decode(&bytes).unwrap();
        assert_eq!(Head { crc: 0, ..head }, Head::of(place, key, tag, value));
        assert_eq!(&bytes[HEAD_BYTES..], b"keyt");
        for at in 0..4 {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert_eq!(Head::decode(&bad), None);
        }
        assert_eq!(Head::decode(&bytes[..23]), None);
        assert_eq!(record_bytes(3, 1, 4), 32);
    }
}
