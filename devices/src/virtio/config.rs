//! Access to a device's configuration space (virtio 1.3, 2.5).

/// Reads `data` at `offset` from `space`; what lies past its end is zero.
pub(crate) fn read(space: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let rest = usize::try_from(offset)
        .ok()
        .and_then(|offset| space.get(offset..));
    if let Some(rest) = rest {
        let count = rest.len().min(data.len());
        data[..count].copy_from_slice(&rest[..count]);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn past_the_end_is_zero() {
        let cases: [(u64, &[u8]); 5] = [
            (0, &[1, 2]),
            (1, &[2, 3]),
            (2, &[3, 0]),
            (3, &[0, 0]),
            (u64::MAX, &[0, 0]),
        ];
        for (offset, expected) in cases {
            let mut data = [0xFF; 2];
            super::read(&[1, 2, 3], offset, &mut data);
            assert_eq!(data, expected, "at {offset}");
        }
    }
}
