use std::io::{Read, Seek, Write};

use proptest::prelude::*;
use vm_memory::Bytes;

use super::*;

const SIZE: usize = 0x1000;

fn memory() -> Arc<GuestMemory> {
    // Two regions that touch, so that a range can span both.
    let half = SIZE / 2;
    let ranges = [(GuestAddress(0), half), (GuestAddress(half as u64), half)];
    let memory = GuestMemory::from_ranges(&ranges).unwrap();
    let pattern: Vec<u8> = (0..SIZE).map(|i| u8::try_from(i % 251).unwrap()).collect();
    memory.write_slice(&pattern, GuestAddress(0)).unwrap();
    Arc::new(memory)
}

fn list(memory: &Arc<GuestMemory>, ranges: &[(u64, usize)]) -> ScatterList {
    let mut list = ScatterList::new(memory.clone());
    for (address, length) in ranges {
        list.push(GuestAddress(*address), *length).unwrap();
    }
    list
}

fn contents(list: &ScatterList) -> Vec<u8> {
    let mut data = vec![0; list.len()];
    assert_eq!(list.peek(&mut data), data.len());
    data
}

#[test]
fn refuses_what_is_not_memory() {
    let memory = memory();
    for (address, length) in [
        (SIZE as u64, 1),
        (SIZE as u64 - 1, 2),
        (u64::MAX, 2),
        (0, SIZE + 1),
    ] {
        let mut list = ScatterList::new(memory.clone());
        let error = list.push(GuestAddress(address), length).unwrap_err();
        assert!(matches!(error, Error::NotMemory { .. }), "{error}");
    }
}

#[test]
fn refuses_one_piece_too_many() {
    let mut list = list(&memory(), &[(0, 1); MAX_PIECES]);
    assert!(matches!(
        list.push(GuestAddress(0), 1),
        Err(Error::TooManyPieces)
    ));
}

#[test]
fn a_range_may_span_regions() {
    let memory = memory();
    let list = list(&memory, &[(SIZE as u64 / 2 - 3, 6)]);
    let mut expected = [0; 6];
    memory
        .read_slice(&mut expected, GuestAddress(SIZE as u64 / 2 - 3))
        .unwrap();
    assert_eq!(contents(&list), expected);
}

#[test]
fn moves_bytes_between_memory_and_a_file() {
    let memory = memory();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"0123456789").unwrap();
    list(&memory, &[(0x10, 3), (0x20, 2)])
        .read_exact_at(&file, 2)
        .unwrap();
    assert_eq!(contents(&list(&memory, &[(0x10, 3), (0x20, 2)])), b"23456");
    list(&memory, &[(0x20, 2), (0x10, 1)])
        .write_all_at(&file, 7)
        .unwrap();
    file.rewind().unwrap();
    let mut data = String::new();
    file.read_to_string(&mut data).unwrap();
    assert_eq!(data, "0123456562");
    let error = list(&memory, &[(0, 16)])
        .read_exact_at(&file, 0)
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn takes_all_or_nothing() {
    let mut list = list(&memory(), &[(0, 2), (4, 2)]);
    assert!(!list.take(&mut [0; 5]));
    let mut data = [0; 3];
    assert!(list.take(&mut data));
    assert_eq!((data, list.len()), ([0, 1, 4], 1));
}

proptest! {
    #[test]
    fn cutting_agrees_with_a_plain_buffer(
        ranges in prop::collection::vec((0..SIZE as u64 / 2, 0..SIZE / 4), 0..8),
        skip in 0..SIZE, keep in 0..SIZE,
    ) {
        let memory = memory();
        let mut list = list(&memory, &ranges);
        let mut tail = ScatterList::new(memory.clone());
        let mut model = contents(&list);

        list.advance(skip);
        model.drain(..skip.min(model.len()));
        prop_assert_eq!(contents(&list), model.clone());

        list.split_into(keep, &mut tail);
        let rest = model.split_off(keep.min(model.len()));
        prop_assert_eq!(contents(&list), model.clone());
        prop_assert_eq!(contents(&tail), rest);

        list.truncate(keep / 2);
        model.truncate(keep / 2);
        prop_assert_eq!(contents(&list), model);
    }

    #[test]
    fn writing_touches_only_the_list(
        ranges in prop::collection::vec((0..SIZE as u64 / 2, 0..64usize), 0..8),
        offset in 0..128usize, length in 0..256usize,
    ) {
        let memory = memory();
        let list = list(&memory, &ranges);
        let mut before = vec![0; SIZE];
        memory.read_slice(&mut before, GuestAddress(0)).unwrap();
        list.write_at(offset, &vec![0xFF; length]);
        for (address, byte) in (0u64..).zip(&before) {
            let inside = ranges.iter().any(|(start, length)| {
                (*start..*start + *length as u64).contains(&address)
            });
            if !inside {
                prop_assert_eq!(memory.read_obj::<u8>(GuestAddress(address)).unwrap(), *byte);
            }
        }
    }

    #[test]
    fn copying_agrees_with_a_plain_buffer(
        from in prop::collection::vec((0..SIZE as u64 / 4, 0..64usize), 0..8),
        to in prop::collection::vec((0..SIZE as u64 / 4, 0..64usize), 0..8),
        offset in 0..300usize, range in (0..300usize, 0..300usize),
    ) {
        // What is copied lies apart from where it goes.
        let (memory, model) = (memory(), memory());
        let apart: Vec<_> = to
            .iter()
            .map(|(start, length)| (start + SIZE as u64 / 2, *length))
            .collect();
        let source = list(&memory, &from);
        let bytes = contents(&source);
        let range = range.0.min(range.1)..range.1;
        list(&memory, &apart).copy_at(offset, &source, range.clone());
        let bytes = &bytes[range.start.min(bytes.len())..range.end.min(bytes.len())];
        list(&model, &apart).write_at(offset, bytes);
        let all = [(0, SIZE)];
        prop_assert_eq!(contents(&list(&memory, &all)), contents(&list(&model, &all)));
    }
}
