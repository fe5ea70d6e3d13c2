//! Inputs that are rows of records, so that libFuzzer can mutate what is in
//! one without losing the others: a byte that says what it is, the length of
//! what follows in two bytes, and that.

/// The records in an input; the last one may be shorter than it says.
pub fn records(mut rest: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (&[kind, a, b], behind) = rest.split_first_chunk()?;
        let len = usize::from(u16::from_be_bytes([a, b])).min(behind.len());
        let (body, next) = behind.split_at(len);
        rest = next;
        Some((kind, body))
    })
}

/// The number in a record's first bytes; what is missing is zero.
pub fn number(body: &[u8]) -> u32 {
    let byte = |at| body.get(at).copied().unwrap_or(0);
    u32::from_be_bytes([byte(0), byte(1), byte(2), byte(3)])
}
