//! What the parts of the hot paths take by themselves: frames, records, names, batches.
//!
//! `cargo bench --bench micro --features fuzzing`. Nothing here waits for anybody; how much of a message's way these parts are stands in
//! `benches/README.md`.

#![allow(missing_docs, clippy::unwrap_used, reason = "a measurement, not an interface")]

use std::{hint::black_box, time::Duration};

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use nsqbridge::{
    fuzzing,
    mapping::{Names, is_taken_in},
    nsq::mpub,
    rocketmq::{
        Message,
        codes::request,
        command::{self, Command},
        properties::{Properties, PropertiesBuilder},
        record::{self, StoredMessage},
        unique_key::UniqueKeys,
    },
};

/// Messages of a batch, each of so many bytes.
const BATCH: usize = 100;
const BODY: usize = 256;
/// Messages of one answer to a pull.
const PULLED: usize = 32;

fn bodies() -> Vec<Bytes> {
    (0..BATCH).map(|_| Bytes::from(vec![b'x'; BODY])).collect()
}

fn properties() -> PropertiesBuilder {
    let properties = PropertiesBuilder::new().user("nsq_topic", "orders.v1").unwrap();
    properties.user("nsq_accepted_ms", "1700000000123").unwrap().user("nsq_gateway", "gateway-1").unwrap()
}

fn messages() -> Vec<Message> {
    let (keys, properties) = (UniqueKeys::new(), properties());
    let message = |body| Message {
        body,
        properties: properties.clone(),
        unique_key: keys.mint(),
        born_at: 1_700_000_000_123,
        deliver_at: None,
    };
    bodies().into_iter().map(message).collect()
}

/// What a broker answers a pull with.
fn pulled() -> Bytes {
    let mut records = BytesMut::new();
    for n in 0..PULLED as i64 {
        let message = StoredMessage {
            topic: "orders.v1".into(),
            queue_id: 3,
            queue_offset: n,
            physical_offset: 400 * n,
            flag: 0,
            sys_flag: 0,
            born_timestamp: 1_700_000_000_123,
            born_host: ([127, 0, 0, 1], 1).into(),
            store_timestamp: 1_700_000_000_124,
            store_host: ([127, 0, 0, 1], 10911).into(),
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: vec![b'x'; BODY].into(),
            properties: properties().build().unwrap(),
        };
        record::encode_stored(&mut records, &message);
    }
    records.freeze()
}

/// A send's header, as large as they are.
fn send() -> Command {
    let field = |command: Command, name: &&str| command.field(name, "nsqbridge-gateway");
    ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "m", "n"]
        .iter()
        .fold(Command::request(request::SEND_MESSAGE_V2), field)
        .body(vec![b'x'; BODY])
}

fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame");
    let (send, mut out) = (send(), BytesMut::new());
    group.bench_function("encode a send", |bencher| {
        bencher.iter(|| {
            out.clear();
            command::encode(black_box(&send), &mut out);
        });
    });
    let answer = send.clone().body(pulled());
    let mut wire = BytesMut::new();
    command::encode(&answer, &mut wire);
    group.bench_function("decode an answer to a pull", |bencher| {
        let copy = || wire.clone();
        bencher.iter_batched(copy, |mut wire| command::decode(&mut wire).unwrap(), BatchSize::SmallInput);
    });
}

fn records(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("records");
    let messages = messages();
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("encode a batch of 100", |bencher| {
        bencher.iter(|| fuzzing::send_body(black_box(&messages)));
    });
    let pulled = pulled();
    group.throughput(Throughput::Elements(PULLED as u64));
    group.bench_function("decode 32 of a pull", |bencher| {
        bencher.iter(|| record::decode_records(black_box(&pulled).clone()).filter(Result::is_ok).count());
    });
}

fn mapping(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mapping");
    let (names, topic) = (Names::default(), "orders.v1#ephemeral".parse().unwrap());
    group.bench_function("a topic's name in RocketMQ", |bencher| {
        bencher.iter(|| names.rocketmq_topic(black_box(&topic)));
    });
    let name = names.rocketmq_topic(&topic);
    group.bench_function("and back", |bencher| bencher.iter(|| names.nsq_topic(black_box(&name))));
    let properties: Properties = properties().build().unwrap();
    group.bench_function("whether nsqd has had it", |bencher| {
        bencher.iter(|| is_taken_in(black_box(&properties)));
    });
}

fn batching(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batching");
    let bodies = bodies();
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("100 publishes join and leave", |bencher| {
        bencher.iter(|| fuzzing::gather(black_box(&bodies)));
    });
    let encoded = mpub::encode_binary(bodies.iter().map(|body| &body[..]));
    group.bench_function("an mpub of 100 is read", |bencher| {
        bencher.iter(|| mpub::decode_binary(black_box(&encoded).clone(), 1 << 20, 5 << 20).unwrap());
    });
    group.bench_function("an mpub of 100 is written", |bencher| {
        bencher.iter(|| mpub::encode_binary(black_box(&bodies).iter().map(|body| &body[..])));
    });
}

fn shortly() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2))
}

criterion_group! { name = all; config = shortly(); targets = frames, records, mapping, batching }
criterion_main!(all);
