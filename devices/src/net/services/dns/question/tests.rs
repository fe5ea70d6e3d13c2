use proptest::prelude::*;

use super::super::message::{Query, Record};
use super::*;

const NAME: &str = "www.Example.org";

fn question(family: Family) -> Question {
    Question::new(0xBEEF, NAME, family).unwrap()
}

/// An answer whose records are given as they stand in the message.
fn answer(question: &Question, records: &[&[u8]]) -> Vec<u8> {
    let mut message = question.message().to_vec();
    message[2..4].copy_from_slice(&[0x81, 0x80]);
    message[7] = u8::try_from(records.len()).unwrap();
    message.extend(records.concat());
    message
}

/// A record: its owner in wire form, its type and its data.
fn record(owner: &[u8], kind: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = owner.to_vec();
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1, 0, 0, 0, 60]);
    bytes.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
    bytes.extend(data);
    bytes
}

#[test]
fn names_that_are_none_are_not_asked_for() {
    for name in ["", ".", "a..b", "a_b", "caf\u{e9}", &"a".repeat(64)] {
        assert_eq!(Question::new(1, name, Family::V4), None, "{name:?}");
    }
    let plain = Question::new(1, "lab.internal", Family::V4).unwrap();
    let dotted = Question::new(1, "lab.internal.", Family::V4).unwrap();
    assert_eq!(plain, dotted);
}

#[test]
fn aliases_are_followed_in_any_order() {
    let question = question(Family::V4);
    let (own, target, last) = (&[0xC0, 12][..], &b"\x03web\xC0\x10"[..], b"\x04LAST\0");
    let [first, second] = [
        record(target, kind::CNAME, last),
        record(own, kind::CNAME, target),
    ];
    let wanted = record(b"\x04last\0", kind::A, &[192, 0, 2, 1]);
    let foreign = record(b"\x05other\0", kind::A, &[192, 0, 2, 2]);
    let ours = record(own, kind::A, &[192, 0, 2, 3]);
    let text = record(b"\x04last\0", 16, b"\x02hi");
    let records = [&first, &second, &text, &wanted, &foreign, &ours];
    let message = answer(&question, &records.map(Vec::as_slice));
    let expected = Answer::Addresses(vec!["192.0.2.1".parse().unwrap()]);
    assert_eq!(question.answer(&message), Some(expected));
}

#[test]
fn names_that_go_round_in_circles_are_no_names() {
    let question = question(Family::V4);
    let end = u8::try_from(question.message().len()).unwrap();
    let looped = record(&[0xC0, end], kind::A, &[192, 0, 2, 1]);
    let message = answer(&question, &[&looped]);
    assert_eq!(question.answer(&message), Some(Answer::Malformed));
    // An alias of itself leads nowhere.
    let own = [0xC0, 12];
    let message = answer(&question, &[&record(&own, kind::CNAME, &own)]);
    let nothing = Answer::Addresses(Vec::new());
    assert_eq!(question.answer(&message), Some(nothing));
}

#[test]
fn failures_are_told_apart() {
    let question = question(Family::V6);
    let address = record(&[0xC0, 12], kind::AAAA, &[0; 15]);
    for (flags, records, expected) in [
        ([0x81, 0x83], vec![], Some(Answer::NoSuchName)),
        ([0x81, 0x82], vec![], Some(Answer::Failed(2))),
        ([0x81, 0x85], vec![], Some(Answer::Failed(5))),
        ([0x83, 0x80], vec![], Some(Answer::Truncated)),
        ([0x81, 0x80], vec![&address[..]], Some(Answer::Malformed)),
        // A question is no answer.
        ([0x01, 0x00], vec![], None),
    ] {
        let mut message = answer(&question, &records);
        message[2..4].copy_from_slice(&flags);
        assert_eq!(question.answer(&message), expected);
    }
    let other = Question::new(0xBEEF, "www.example.com", Family::V6).unwrap();
    assert_eq!(other.answer(&answer(&question, &[])), None);
    let other = Question::new(0xBEF0, NAME, Family::V6).unwrap();
    assert_eq!(other.answer(&answer(&question, &[])), None);
}

proptest! {
    #[test]
    fn our_own_server_is_understood(
        id: u16,
        addresses in proptest::collection::vec(any::<IpAddr>(), 0..8),
    ) {
        for family in [Family::V4, Family::V6] {
            let question = Question::new(id, NAME, family).unwrap();
            let query = Query::parse(question.message()).unwrap();
            let wanted = addresses.iter().copied();
            let wanted: Vec<_> = wanted
                .filter(|address| address.is_ipv4() == (family == Family::V4))
                .collect();
            let records: Vec<_> = addresses
                .iter()
                .map(|address| Record::address(*address, 30))
                .collect();
            let reply = query.reply(Rcode::NoError, &records);
            prop_assert_eq!(question.answer(&reply), Some(Answer::Addresses(wanted)));
        }
    }

    #[test]
    fn hostile_answers_are_survived(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        count: u16,
    ) {
        let question = question(Family::V4);
        let mut message = answer(&question, &[&bytes]);
        message[6..8].copy_from_slice(&count.to_be_bytes());
        prop_assert!(question.answer(&message).is_some());
        prop_assert_eq!(question.answer(&bytes), None);
        for at in 0..message.len() {
            prop_assert!(name_at(&message, at).is_none_or(|name| name.len() <= LONGEST_NAME));
        }
    }
}
