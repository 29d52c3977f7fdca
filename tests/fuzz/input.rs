//! Reading what the fuzzer made up. Where it ends, everything is zero, so that any bytes are a
//! whole input.

pub struct Input<'a> {
    left: &'a [u8],
}

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Input<'a> {
        Input { left: bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.left)
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let taken = self.left.len().min(N);
        let (now, later) = self.left.split_at(taken);
        self.left = later;
        let mut bytes = [0; N];
        bytes[..taken].copy_from_slice(now);
        bytes
    }

    pub fn byte(&mut self) -> u8 {
        self.bytes::<1>()[0]
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }

    pub fn u24(&mut self) -> u32 {
        let [a, b, c] = self.bytes();
        u32::from_le_bytes([a, b, c, 0])
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    /// One of `choices`.
    pub fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.byte()) % choices.len()]
    }
}
