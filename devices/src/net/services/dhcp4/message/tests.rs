use proptest::prelude::*;

use super::*;

fn request() -> impl Strategy<Value = Request> {
    let address = || any::<u32>().prop_map(Ipv4Addr::from);
    let bytes = || proptest::option::of(proptest::collection::vec(any::<u8>(), 1..40));
    let fields = (
        any::<u32>(),
        any::<bool>(),
        address(),
        any::<[u8; 6]>(),
        proptest::option::of(address()),
        proptest::option::of(address()),
        proptest::option::of(any::<u32>()),
        (bytes(), bytes(), bytes()),
        (0..8usize, COMMON..=1472),
    );
    fields.prop_filter_map("a station's address", |fields| {
        let (transaction, broadcast, client_address, hardware, ..) = fields;
        let (.., requested, server, lease_time, texts, (kind, max_reply)) = fields;
        Some(Request {
            kind: MessageType::ALL[kind],
            transaction,
            broadcast,
            client_address,
            relay: Ipv4Addr::UNSPECIFIED,
            hardware: MacAddress::new(hardware)?,
            client_id: texts.0,
            requested,
            server,
            lease_time,
            host_name: texts.1,
            requested_options: texts.2,
            max_reply,
        })
    })
}

proptest! {
    #[test]
    fn a_server_reads_what_a_client_writes(request in request()) {
        let bytes = request.bytes();
        prop_assert!((SHORTEST..=COMMON).contains(&bytes.len()));
        prop_assert_eq!(Request::parse(&bytes), Some(request));
    }
}
