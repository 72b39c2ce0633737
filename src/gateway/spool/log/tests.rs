//! The log on a disk that tears, reorders and forgets.

use proptest::prelude::*;

mod disk;

use self::disk::Model;
use super::*;
use crate::gateway::spool::record::tests::spooled;

#[derive(Debug, Clone)]
enum Step {
    /// Appends so many messages.
    Append(usize),
    /// Takes so many.
    Drain(usize),
    /// The disk fails from so many operations on; a crash mends it.
    Fail(u32),
    Crash(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1_usize..5).prop_map(Step::Append),
        4 => (1_usize..6).prop_map(Step::Drain),
        1 => (0_u32..4).prop_map(Step::Fail),
        2 => any::<u64>().prop_map(Step::Crash),
    ]
}

fn small(n: u32) -> Spooled {
    spooled(n.to_be_bytes().to_vec(), None)
}

fn body(message: &Spooled) -> u32 {
    let bytes = &message.message.body;
    u32::from_be_bytes(*bytes.first_chunk().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]
    #[test]
    fn what_was_acknowledged_comes_out_in_order_whatever_is_torn(steps in proptest::collection::vec(step(), 1..40)) {
        let disk = Model::default();
        let mut log = Log::open(disk.clone()).unwrap();
        let mut number = 0_u32;
        // Acknowledged and not drained, in order; and what may be there as well.
        let mut held: VecDeque<u32> = VecDeque::new();
        let mut perhaps: Vec<u32> = Vec::new();
        let drain = |log: &mut Log<Model>, most: usize, held: &mut VecDeque<u32>, perhaps: &mut Vec<u32>| -> Result<(), TestCaseError> {
            let Ok(items) = log.read(usize::MAX, most) else { return Ok(()) };
            for item in items {
                let after = item.after();
                let seen = match &item {
                    Item::Message { spooled, .. } => {
                        let seen = body(spooled);
                        // What was drained before a crash may come again, but only from the front.
                        prop_assert!(held.front() == Some(&seen) || perhaps.contains(&seen), "{seen} out of order: {held:?}");
                        Some(seen)
                    }
                    Item::Damaged { .. } => None,
                };
                let advanced = log.advance(after);
                if seen.is_some() && held.front() == seen.as_ref() {
                    held.pop_front();
                }
                if advanced.is_err() {
                    // It was stored, and may be once more.
                    perhaps.extend(seen);
                    break;
                }
            }
            Ok(())
        };
        for step in steps {
            match step {
                Step::Append(count) => {
                    let messages: Vec<Spooled> = (number..).take(count)
                        .map(|n| spooled([&n.to_be_bytes()[..], &vec![7; (n % 50) as usize]].concat(), None)).collect();
                    let numbers = number..number + count as u32;
                    number = numbers.end;
                    match log.append(&messages) {
                        Ok(()) => held.extend(numbers),
                        Err(error) if error.perhaps_there => perhaps.extend(numbers),
                        Err(_) => {}
                    }
                }
                Step::Drain(most) => drain(&mut log, most, &mut held, &mut perhaps)?,
                Step::Fail(after) => disk.0.lock().unwrap().fails_in = Some(after),
                Step::Crash(seed) => {
                    drop(log);
                    let mut random = fastrand::Rng::with_seed(seed);
                    disk.crash(|| random.bool());
                    log = Log::open(disk.clone()).unwrap();
                    prop_assert!(log.messages() >= held.len() as u64, "{} of {held:?}", log.messages());
                }
            }
        }
        disk.0.lock().unwrap().fails_in = None;
        let before = held.len();
        drain(&mut log, usize::MAX, &mut held, &mut perhaps)?;
        drain(&mut log, usize::MAX, &mut held, &mut perhaps)?;
        prop_assert!(held.is_empty(), "{held:?} of {before} did not come out");
        prop_assert_eq!(log.messages(), 0);
        prop_assert_eq!(log.bytes(), 0);
    }
}

#[test]
fn a_damaged_message_is_set_aside_and_those_behind_it_come_out() {
    let disk = Model::default();
    let mut log = Log::open(disk.clone()).unwrap();
    let messages: Vec<Spooled> = (0_u32..5).map(|n| spooled(n.to_be_bytes().to_vec(), None)).collect();
    log.append(&messages).unwrap();
    let whole = log.bytes() as usize;
    {
        let mut files = disk.0.lock().unwrap();
        let file = files.files.get_mut(&name(0)).unwrap();
        // The payload of the third.
        file.content[whole * 2 / 5 + HEAD + 40] ^= 1;
    }
    let mut log = Log::open(disk).unwrap();
    let items = log.read(usize::MAX, usize::MAX).unwrap();
    let said: Vec<String> = items
        .iter()
        .map(|item| match item {
            Item::Message { spooled, .. } => body(spooled).to_string(),
            Item::Damaged { missing, .. } => format!("damaged {missing}"),
        })
        .collect();
    assert_eq!(said, ["0", "1", "damaged 1", "3", "4"]);
}

#[test]
fn a_damaged_head_at_the_end_is_reported_and_nothing_is_written_over_it() {
    let damage = |disk: &Model, file: u64, from: usize| {
        let mut files = disk.0.lock().unwrap();
        files.files.get_mut(&name(file)).unwrap().content[from..].fill(0);
    };
    let only_damage = |log: &mut Log<Model>, expected: usize| {
        assert_eq!(log.messages(), 1);
        let items = log.read(usize::MAX, usize::MAX).unwrap();
        let [Item::Damaged { bytes, missing: 1, after, .. }] = &items[..] else { panic!("{items:?}") };
        assert_eq!(bytes.len(), expected);
        log.advance(*after).unwrap().unwrap();
        assert_eq!((log.messages(), log.bytes()), (0, 0));
    };

    // The last of three, the others of which are done with.
    let disk = Model::default();
    let mut log = Log::open(disk.clone()).unwrap();
    log.append(&[small(0), small(1)]).unwrap();
    let two = log.bytes() as usize;
    log.append(&[small(2)]).unwrap();
    let third = log.bytes() as usize - two;
    let done = log.read(usize::MAX, 2).unwrap()[1].after();
    log.advance(done).unwrap().unwrap();
    damage(&disk, 0, two);
    only_damage(&mut Log::open(disk).unwrap(), third);

    // All that a file holds, behind one that has a message: the next one gets a file of its own.
    let disk = Model::default();
    let mut log = Log::open(disk.clone()).unwrap();
    log.append(&[small(0)]).unwrap();
    let mut log = Log::open(disk.clone()).unwrap();
    log.append(&[small(1)]).unwrap();
    damage(&disk, 1, 0);
    let mut log = Log::open(disk).unwrap();
    assert_eq!(log.messages(), 2);
    log.append(&[small(2)]).unwrap();
    let items = log.read(usize::MAX, usize::MAX).unwrap();
    let [Item::Message { .. }, Item::Damaged { bytes, missing: 1, .. }, Item::Message { spooled, .. }] =
        &items[..]
    else {
        panic!("{items:?}")
    };
    assert_eq!((bytes.len(), body(spooled)), (third, 2));

    // In the middle it is one message as well.
    let disk = Model::default();
    let mut log = Log::open(disk.clone()).unwrap();
    log.append(&[small(0), small(1), small(2)]).unwrap();
    disk.0.lock().unwrap().files.get_mut(&name(0)).unwrap().content[third..][..HEAD].fill(0);
    let items = Log::open(disk).unwrap().read(usize::MAX, usize::MAX).unwrap();
    let [Item::Message { .. }, Item::Damaged { bytes, missing: 1, .. }, Item::Message { spooled, .. }] =
        &items[..]
    else {
        panic!("{items:?}")
    };
    assert_eq!((bytes.len(), body(spooled)), (third, 2));
}

#[test]
fn a_place_in_a_file_that_is_gone_hides_nothing_that_came_since() {
    let disk = Model::default();
    let mut log = Log::open(disk.clone()).unwrap();
    log.append(&[small(0)]).unwrap();
    // A torn tail without a head that can be read.
    disk.0.lock().unwrap().files.get_mut(&name(0)).unwrap().content.extend([0; 10]);
    let mut log = Log::open(disk).unwrap();
    let items = log.read(usize::MAX, usize::MAX).unwrap();
    assert!(matches!(&items[..], [Item::Message { .. }, Item::Damaged { .. }]), "{items:?}");
    log.advance(items[1].after()).unwrap().unwrap();
    assert_eq!(log.messages(), 0);
    log.append(&[small(1)]).unwrap();
    log.advance(items[0].after()).unwrap().unwrap();
    log.advance(items[1].after()).unwrap().unwrap();
    let left = log.read(usize::MAX, usize::MAX).unwrap();
    assert!(matches!(&left[..], [Item::Message { spooled, .. }] if body(spooled) == 1), "{left:?}");
}

/// What comes out: the numbers of messages, and how many are missing where something is damaged.
fn read_all(log: &mut Log<Model>) -> Vec<String> {
    let mut said = Vec::new();
    loop {
        let items = log.read(usize::MAX, usize::MAX).unwrap();
        let Some(last) = items.last() else { return said };
        said.extend(items.iter().map(|item| match item {
            Item::Message { spooled, .. } => body(spooled).to_string(),
            Item::Damaged { missing, .. } => format!("damaged {missing}"),
        }));
        let unread = items.iter().filter(|item| matches!(item, Item::Damaged { unread: true, .. }));
        unread.for_each(|item| log.keep(item.after()));
        let _ = log.advance(last.after());
    }
}

fn large(n: u32) -> Spooled {
    spooled([&n.to_be_bytes()[..], &[7; 3 * BLOCK]].concat(), None)
}

/// A log of two files: of the first two messages, and of the third.
fn two_files() -> (Model, Log<Model>) {
    let disk = Model::default();
    Log::open(disk.clone()).unwrap().append(&[large(0), large(1)]).unwrap();
    let mut log = Log::open(disk.clone()).unwrap();
    log.append(&[large(2)]).unwrap();
    (disk, log)
}

#[test]
fn what_cannot_be_taken_away_keeps_nothing_from_coming_out() {
    let (disk, mut log) = two_files();
    disk.0.lock().unwrap().fails_in = Some(0);
    let first = log.read(usize::MAX, 2).unwrap();
    assert!(log.advance(first[1].after()).is_err());
    assert_eq!(read_all(&mut log), ["2"]);
    assert_eq!((log.messages(), log.oldest_ms()), (0, None));
    assert!(log.bytes() > 0, "the files are there");
    // A restart on such a disk finds all of it again.
    let mut log = Log::open(disk.clone()).unwrap();
    assert_eq!(log.messages(), 3);
    disk.0.lock().unwrap().fails_in = None;
    assert_eq!(read_all(&mut log), ["0", "1", "2"]);
    assert_eq!(log.bytes(), 0);
    log.append(&[large(3)]).unwrap();
    assert_eq!(read_all(&mut log), ["3"]);
}

#[test]
fn a_bad_sector_costs_what_stands_there_and_its_file_is_kept() {
    let disk = Model::default();
    let mut log = Log::open(disk.clone()).unwrap();
    log.append(&[large(0), large(1), large(2)]).unwrap();
    let third = log.bytes() / 3;
    log.append(&[large(3)]).unwrap();
    // In the payload of the second, and the head of the third, of which nothing else is known.
    for at in [third + BLOCK as u64, 2 * third] {
        disk.0.lock().unwrap().bad.insert((name(0), at / BLOCK as u64));
    }
    for _ in 0..2 {
        let mut log = Log::open(disk.clone()).unwrap();
        assert_eq!(log.messages(), 4);
        let items = log.read(usize::MAX, usize::MAX).unwrap();
        let bytes: usize = items
            .iter()
            .map(|item| if let Item::Damaged { bytes, .. } = item { bytes.len() } else { 0 })
            .sum();
        assert_eq!(bytes as u64, 2 * third, "{items:?}");
    }
    let mut log = Log::open(disk.clone()).unwrap();
    assert_eq!(read_all(&mut log), ["0", "damaged 1", "damaged 1", "3"]);
    assert_eq!((log.messages(), log.bytes()), (0, 0));
    let left: Vec<String> = disk.list().unwrap();
    assert_eq!(left, [format!("{}{KEPT}", name(0)), DONE.to_owned()]);
}

#[test]
fn a_file_that_is_to_be_kept_is_kept_after_a_restart_too() {
    let disk = Model::default();
    let mut log = Log::open(disk.clone()).unwrap();
    log.append(&[large(0), large(1), large(2)]).unwrap();
    let third = log.bytes() / 3;
    disk.0.lock().unwrap().bad.insert((name(0), third / BLOCK as u64 + 1));
    let items = log.read(usize::MAX, 2).unwrap();
    let [Item::Message { .. }, Item::Damaged { unread: true, after, .. }] = &items[..] else {
        panic!("{items:?}")
    };
    log.keep(*after);
    log.advance(*after).unwrap().unwrap();
    // The disk gives it now, when it is done with.
    disk.0.lock().unwrap().bad.clear();
    let mut log = Log::open(disk.clone()).unwrap();
    read_all(&mut log);
    assert_eq!(disk.list().unwrap(), [format!("{}{KEPT}", name(0)), DONE.to_owned()]);
}

#[test]
fn what_is_noted_as_done_stays_so_whatever_is_damaged_of_it_later() {
    let disk = Model::default();
    let mut log = Log::open(disk.clone()).unwrap();
    log.append(&[large(0), large(1), large(2), large(3)]).unwrap();
    let items = log.read(usize::MAX, 3).unwrap();
    log.advance(items[2].after()).unwrap().unwrap();
    let (file, quarter) = (name(0), log.bytes() as usize / 4);
    disk.0.lock().unwrap().files.get_mut(&file).unwrap().content[quarter] ^= 1;
    let mut log = Log::open(disk.clone()).unwrap();
    log.append(&[large(4)]).unwrap();
    assert_eq!(log.again(), 0);
    log.advance(log.place).unwrap().unwrap();
    let said = read_all(&mut Log::open(disk).unwrap());
    assert_eq!(said, ["3", "4"]);
}

#[test]
fn a_healthy_file_behind_a_bad_sector_is_not_kept() {
    let (disk, mut log) = two_files();
    let last = disk.len(&name(0)).unwrap() - 1;
    disk.0.lock().unwrap().bad.insert((name(0), last / BLOCK as u64));
    assert_eq!(read_all(&mut log), ["0", "damaged 1", "2"]);
    assert_eq!(disk.list().unwrap(), [format!("{}{KEPT}", name(0)), DONE.to_owned()]);
}

#[test]
fn what_may_stand_in_a_bad_sector_at_the_end_keeps_its_place_before_what_comes_later() {
    let disk = Model::default();
    let mut log = Log::open(disk.clone()).unwrap();
    let messages: Vec<Spooled> = (0..100).map(small).collect();
    log.append(&messages).unwrap();
    let end = log.bytes();
    disk.0.lock().unwrap().bad.insert((name(0), end / BLOCK as u64));
    let mut log = Log::open(disk.clone()).unwrap();
    assert!(log.messages() >= 100);
    log.append(&[small(100)]).unwrap();
    // The disk can read it after all.
    disk.0.lock().unwrap().bad.clear();
    let said = read_all(&mut log);
    let messages: Vec<String> = said.iter().filter(|said| !said.starts_with("damaged")).cloned().collect();
    assert_eq!(messages, (0..=100).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn a_file_that_is_shorter_than_it_was_costs_what_it_lacks() {
    let (disk, mut log) = two_files();
    disk.0.lock().unwrap().files.get_mut(&name(0)).unwrap().content.truncate(3 * BLOCK + 300);
    assert_eq!(read_all(&mut log), ["0", "damaged 1", "2"]);
    assert_eq!((log.messages(), log.bytes()), (0, 0));
}

/// A log of three messages, the second with a damaged head and a body that looks like a message of this sequence.
fn posing(sequence: u64) -> (Model, Log<Model>, usize) {
    let mut body = BytesMut::new();
    record::encode(sequence, &small(666), &mut body);
    // It is not where the next one begins.
    body.extend_from_slice(b"more");
    let disk = Model::default();
    let mut log = Log::open(disk.clone()).unwrap();
    log.append(&[small(0)]).unwrap();
    let first = log.bytes() as usize;
    log.append(&[spooled(body.to_vec(), None)]).unwrap();
    let posing = log.bytes() as usize - first;
    log.append(&[small(2)]).unwrap();
    disk.0.lock().unwrap().files.get_mut(&name(0)).unwrap().content[first] ^= 1;
    (disk, log, posing)
}

#[test]
fn a_body_that_looks_like_a_message_is_not_taken_for_one() {
    for sequence in [0, 1, 3, 1 << 63, u64::MAX] {
        for opened_again in [false, true] {
            let (disk, mut log, posing) = posing(sequence);
            if opened_again {
                log = Log::open(disk).unwrap();
            }
            assert_eq!(log.messages(), 3, "{sequence}");
            let items = log.read(usize::MAX, usize::MAX).unwrap();
            let [
                Item::Message { .. },
                Item::Damaged { bytes, missing: 1, .. },
                Item::Message { spooled, after, .. },
            ] = &items[..]
            else {
                panic!("{sequence}: {items:?}")
            };
            assert_eq!((bytes.len(), body(spooled)), (posing, 2));
            log.advance(*after).unwrap().unwrap();
            assert_eq!((log.messages(), log.bytes()), (0, 0));
        }
    }
}

#[test]
fn bytes_are_never_left_unread_whatever_a_body_pretends() {
    let (_, mut log, posing) = posing(2);
    let mut bytes = 0;
    let mut numbers = Vec::new();
    while log.messages() > 0 {
        for item in log.read(usize::MAX, 1).unwrap() {
            match &item {
                Item::Message { spooled, .. } => numbers.push(body(spooled)),
                Item::Damaged { bytes: damaged, .. } => bytes += damaged.len(),
            }
            log.advance(item.after()).unwrap().unwrap();
        }
    }
    // It is taken for the third, which comes out all the same.
    assert_eq!(numbers, [0, 666, 2]);
    let inner = 110;
    assert_eq!(bytes, posing - inner);
}

#[test]
fn what_a_body_pretends_is_not_written_down_as_done() {
    let (disk, mut log, _) = posing(2);
    log.append(&[small(3), small(4)]).unwrap();
    // As far as the one that pretends to be the third.
    loop {
        let items = log.read(usize::MAX, 1).unwrap();
        log.advance(items[0].after()).unwrap().unwrap();
        if matches!(&items[0], Item::Message { spooled, .. } if body(spooled) == 666) {
            break;
        }
    }
    let said = read_all(&mut Log::open(disk).unwrap());
    assert!(said.ends_with(&["2", "3", "4"].map(str::to_owned)), "{said:?}");
}

#[test]
fn what_is_done_with_and_cannot_be_read_hides_nothing_later() {
    let disk = Model::default();
    let mut log = Log::open(disk.clone()).unwrap();
    log.append(&[small(0), small(1), small(2)]).unwrap();
    read_all(&mut log);
    disk.0.lock().unwrap().bad.insert((DONE.to_owned(), 0));
    let mut log = Log::open(disk.clone()).unwrap();
    log.append(&[small(3)]).unwrap();
    disk.0.lock().unwrap().bad.clear();
    assert_eq!(read_all(&mut Log::open(disk).unwrap()), ["3"]);
}

#[test]
fn a_message_is_read_though_it_should_have_come_earlier() {
    let mut bytes = BytesMut::new();
    for (sequence, n) in [(0, 0), (5, 1), (1, 2), (2, 3)] {
        record::encode(sequence, &small(n), &mut bytes);
    }
    let mut disk = Model::default();
    disk.create(&name(0)).unwrap();
    disk.append(&name(0), &bytes).unwrap();
    let mut log = Log::open(disk).unwrap();
    assert_eq!(read_all(&mut log), ["0", "damaged 4", "1", "2", "3"]);
    assert_eq!((log.messages(), log.bytes()), (0, 0));
}

#[test]
fn very_many_messages_are_written_part_by_part_and_those_that_got_there_come_out_in_order() {
    let many = |from: u32| (from..from + 40_000).map(small);
    let disk = Model::default();
    let mut log = Log::open(disk.clone()).unwrap();
    log.append(many(0)).unwrap();
    assert_eq!(log.messages(), 40_000);
    assert!(log.bytes() > 3 * CHUNK as u64, "{}", log.bytes());
    // Of the next ones the disk takes a part.
    disk.0.lock().unwrap().fails_in = Some(1);
    assert!(log.append(many(40_000)).unwrap_err().perhaps_there);
    disk.0.lock().unwrap().fails_in = None;
    log.append([small(u32::MAX)]).unwrap();
    let mut bodies: Vec<u32> = log
        .read(usize::MAX, usize::MAX)
        .unwrap()
        .iter()
        .filter_map(|item| match item {
            Item::Message { spooled, .. } => Some(body(spooled)),
            Item::Damaged { .. } => None,
        })
        .collect();
    assert_eq!(bodies.pop(), Some(u32::MAX));
    assert!(bodies.iter().copied().eq(0..bodies.len() as u32) && (40_001..80_000).contains(&bodies.len()));
}
