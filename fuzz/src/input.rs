//! Which decision does the fuzzer's next byte make?
//!
//! The input is read from its first byte to its last, one small decision after the other, so that a mutation of the
//! fuzzer changes one of them and leaves the rest where it was. Behind the end there are zeroes: every input means
//! something.

/// A cursor over the fuzzer's bytes.
#[derive(Debug)]
pub struct Input<'a>(&'a [u8]);

/// Numbers at which arithmetic goes wrong.
const EDGES: [u64; 24] = [
    0,
    1,
    2,
    511,
    512,
    4095,
    4096,
    4097,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    1 << 50,
    1 << 53,
    (1 << 62) - 512,
    1 << 62,
    i64::MAX as u64 - 1,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 4095,
    u64::MAX - 1,
    u64::MAX,
];

impl<'a> Input<'a> {
    /// The whole input.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether nothing is left to decide by.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte.
    pub fn u8(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    /// The next two bytes.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// The next four bytes.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// The next eight bytes.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let bytes = self.bytes(N);
        array[..bytes.len()].copy_from_slice(bytes);
        array
    }

    /// The next bytes, at most `len`.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// A number below `bound`, of one byte. `bound` is 1 to 256.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::from(self.u8()) % bound
    }

    /// One of these.
    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: u8) -> bool {
        self.u8() % times == times - 1
    }

    /// A number: mostly a small one, sometimes one at an edge, sometimes any.
    pub fn number(&mut self) -> u64 {
        match self.u8() {
            small @ 0..=99 => small.into(),
            page @ 100..=149 => u64::from(page - 100) * 512,
            edge @ 150..=199 => EDGES[usize::from(edge - 150) % EDGES.len()],
            200..=229 => self.u16().into(),
            230..=244 => self.u32().into(),
            _ => self.u64(),
        }
    }

    /// The same, cut off at 32 bits.
    pub fn number_u32(&mut self) -> u32 {
        self.number() as u32
    }
}
