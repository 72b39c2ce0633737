use proptest::prelude::*;

use super::*;

fn hop() -> impl Strategy<Value = Hop> {
    let process = || {
        ("[a-c]{1,3}", 1_i64..3)
            .prop_map(|(host, start_time)| Process { nsqd: HttpAddress::new(&host, 4151), start_time })
    };
    prop_oneof![
        Just(Hop::Accepted),
        Just(Hop::Deferred),
        Just(Hop::Unknown),
        Just(Hop::Spooled),
        Just(Hop::Unspooled),
        Just(Hop::Parked),
        process().prop_map(Hop::Relayed),
        process().prop_map(Hop::Replayed),
    ]
}

fn delta() -> impl Strategy<Value = Delta> {
    let counted = proptest::collection::vec((hop(), any::<u128>(), 0_i64..4), 0..60);
    let covered = proptest::collection::vec(("[bc]", 0_i32..3, 0_i64..90, 1_i64..5), 0..9);
    (counted, covered, prop::option::of((0_i64..5, 5_i64..9)), any::<i64>()).prop_map(
        |(counted, covered, incomplete, due)| {
            let mut delta = Delta { incomplete, ..Delta::default() };
            for (hop, id, minute) in counted {
                match hop {
                    Hop::Deferred => delta.count_deferred([Entry { minute, id }], due),
                    hop => delta.count(&hop, [Entry { minute, id }]),
                }
            }
            for (broker, queue, from, length) in covered {
                delta.stored_on(&broker);
                delta.cover(&broker, queue, from, from + length);
            }
            delta
        },
    )
}

proptest! {
    #[test]
    fn a_record_survives_its_bytes(delta in delta(), instance in any::<u64>(), sequence in any::<u64>()) {
        let record = Record { instance, sequence, delta };
        prop_assert_eq!(Record::decode(&record.encode()), Ok(record));
    }

    #[test]
    fn damaged_bytes_are_an_error(delta in delta(), at in any::<prop::sample::Index>(), bit in 0_u32..8, cut in any::<prop::sample::Index>()) {
        let bytes = Record { instance: 1, sequence: 2, delta }.encode();
        let mut damaged = bytes.to_vec();
        damaged[at.index(bytes.len())] ^= 1_u8 << bit;
        prop_assert!(Record::decode(&damaged).is_err());
        prop_assert!(Record::decode(&bytes[..cut.index(bytes.len())]).is_err());
    }

    #[test]
    fn any_bytes_are_read_without_harm(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Record::decode(&bytes);
        // With a right beginning and end the parts are reached.
        bytes.splice(0..0, MAGIC.to_be_bytes());
        bytes.extend(crc32fast::hash(&bytes).to_be_bytes());
        let _ = Record::decode(&bytes);
    }
}

#[test]
fn what_is_too_much_for_a_message_is_parted_and_offsets_come_last() {
    let mut delta = Delta::default();
    for minute in 0..TALLIES as i64 + 3 {
        delta.count(&Hop::Parked, (0..200).map(|id| Entry { minute, id }));
    }
    delta.cover("b", 0, 0, 9);
    let first = delta.overflow().unwrap();
    assert_eq!((first.tallies.len(), first.covered.len()), (TALLIES, 0));
    assert_eq!((delta.tallies.len(), delta.covered.len()), (3, 1));
    assert!(first.tallies.keys().all(|(minute, _)| *minute < TALLIES as i64));
    assert_eq!(delta.overflow(), None);
    let record = Record { instance: 1, sequence: 1, delta: first };
    assert!(record.encode().len() < crate::rocketmq::record::MAX_BODY_BYTES / 2);
}

#[test]
fn what_is_forgotten_is_named_and_its_offsets_are_kept() {
    let counted = |minute, from| {
        let mut delta = Delta::default();
        delta.count(&Hop::Accepted, [Entry { minute, id: u128::from(minute.unsigned_abs()) }]);
        delta.cover("b", 0, from, from + 5);
        delta
    };
    let mut delta = counted(9, 5);
    delta.forget(counted(3, 0));
    assert_eq!((delta.tallies.len(), delta.incomplete), (1, Some((3, 3))));
    assert_eq!(delta.covered, [Covered { broker: "b".to_owned(), queue: 0, from: 0, to: 10 }]);
    assert_eq!(delta.highest.values().max(), Some(&9));
}
