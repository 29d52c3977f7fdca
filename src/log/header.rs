//! The first bytes of a segment: which one it is, and of which store.

/// Where the first record of a segment begins.
pub(crate) const SEGMENT_HEADER_BYTES: u64 = 48;
const SEGMENT_MAGIC: [u8; 8] = *b"slablog\0";
const FORMAT_VERSION: u32 = 1;

/// `None`: it is no whole header of a segment.
pub(super) fn store_id_in(header: &[u8; SEGMENT_HEADER_BYTES as usize]) -> Option<u128> {
    let (mut number, mut id) = ([0; 4], [0; 16]);
    number.copy_from_slice(&header[12..16]);
    id.copy_from_slice(&header[16..32]);
    let id = u128::from_le_bytes(id);
    (segment_header(u32::from_le_bytes(number), id) == *header).then_some(id)
}

pub(super) fn segment_header(number: u32, store_id: u128) -> [u8; SEGMENT_HEADER_BYTES as usize] {
    let mut bytes = [0; SEGMENT_HEADER_BYTES as usize];
    bytes[..8].copy_from_slice(&SEGMENT_MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&number.to_le_bytes());
    bytes[16..32].copy_from_slice(&store_id.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..32]);
    bytes[32..36].copy_from_slice(&crc.to_le_bytes());
    bytes
}
