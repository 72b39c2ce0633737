//! The decoder: nsqd's faults in nsqd's words, and the same commands however the bytes are cut.

use bytes::{Bytes, BytesMut};
use proptest::{collection::vec, prelude::*};

use super::{command, mpub, sized};
use crate::gateway::tcp::{
    commands::{Command, Decoder, Limits, Publish, Verb},
    replies::Fault,
};

const MSG: usize = 100;
const BODY: usize = 500;

fn decoder() -> Decoder {
    let max_req_timeout = std::time::Duration::from_secs(3_600);
    Decoder::new(Limits { max_msg_size: MSG, max_body_size: BODY, max_req_timeout })
}

/// All commands of these pieces, and how they end: with a fault, or with what is wrong when nothing more comes.
fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Command>, Option<Fault>) {
    let (mut decoder, mut buffer, mut commands) = (decoder(), BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(command)) => commands.push(command),
                Ok(None) => break,
                Err(fault) => return (commands, Some(fault)),
            }
        }
    }
    (commands, decoder.cut_off(&buffer))
}

fn published(verb: Verb, topic: &str, bodies: &[&'static str], defer: Option<u64>) -> Command {
    let bodies = bodies.iter().map(|body| Bytes::from_static(body.as_bytes())).collect();
    let defer = defer.map(std::time::Duration::from_millis);
    Command::Publish(Publish { verb, topic: topic.parse().unwrap(), bodies, defer })
}

#[test]
fn commands_are_read_as_nsqd_reads_them() {
    let bytes = [
        &command("PUB t", b"one")[..],
        b"NOP\n",
        &command("PUB t.u#ephemeral surplus\r", b"\n"),
        b"NOP \r\n",
        &command("MPUB t", &mpub(&["a", "bc"])),
        &command("DPUB t 0012", b"x"),
        &command("DPUB t ", b"y"),
        &command("IDENTIFY", b"{}"),
    ]
    .concat();
    let expected = vec![
        published(Verb::Pub, "t", &["one"], None),
        Command::Nop,
        published(Verb::Pub, "t.u#ephemeral", &["\n"], None),
        Command::Nop,
        published(Verb::Mpub, "t", &["a", "bc"], None),
        published(Verb::Dpub, "t", &["x"], Some(12)),
        published(Verb::Dpub, "t", &["y"], None),
        Command::Identify(Bytes::from_static(b"{}")),
    ];
    assert_eq!(read([&bytes[..]]), (expected, None));
}

#[test]
fn the_size_in_front_of_an_mpub_is_not_believed() {
    for claimed in [1, 400] {
        let bytes = [b"MPUB t\n", &i32::to_be_bytes(claimed)[..], &mpub(&["a"]), b"NOP\n"].concat();
        let expected = vec![published(Verb::Mpub, "t", &["a"], None), Command::Nop];
        assert_eq!(read([&bytes[..]]), (expected, None), "{claimed}");
    }
}

#[test]
fn faults_are_nsqds() {
    let size = |size: i32| size.to_be_bytes();
    let line_and_size = |line: &str, number: i32| [line.as_bytes(), &size(number)].concat();
    let in_mpub = |rest: &[u8]| [b"MPUB t\n", &size(100)[..], rest].concat();
    let one = size(1);
    for (bytes, words) in [
        (b"\n".to_vec(), "E_INVALID invalid command "),
        (b"pub t\n".to_vec(), "E_INVALID invalid command pub"),
        (b"CLS\n".to_vec(), "E_INVALID cannot CLS in current state"),
        (b"AUTH x\n".to_vec(), "E_INVALID AUTH invalid number of parameters"),
        (command("AUTH", b"secret"), "E_AUTH_DISABLED AUTH disabled"),
        (line_and_size("AUTH\n", 0), "E_BAD_BODY AUTH invalid body size 0"),
        (b"PUB\n".to_vec(), "E_INVALID PUB insufficient number of parameters"),
        (b"DPUB t\n".to_vec(), "E_INVALID DPUB insufficient number of parameters"),
        (b"PUB \"\n".to_vec(), r#"E_BAD_TOPIC PUB topic name "\"" is not valid"#),
        (b"MPUB  t\n".to_vec(), r#"E_BAD_TOPIC E_BAD_TOPIC MPUB topic name "" is not valid"#),
        (b"DPUB t -1\n".to_vec(), "E_INVALID DPUB could not parse timeout -1"),
        (b"DPUB t 3600001\n".to_vec(), "E_INVALID DPUB timeout 3600001 out of range 0-3600000"),
        (line_and_size("PUB t\n", 0), "E_BAD_MESSAGE PUB invalid message body size 0"),
        (line_and_size("DPUB t 0\n", -7), "E_BAD_MESSAGE DPUB invalid message body size -7"),
        (line_and_size("PUB t\n", 101), "E_BAD_MESSAGE PUB message too big 101 > 100"),
        (line_and_size("MPUB t\n", 0), "E_BAD_BODY MPUB invalid body size 0"),
        (line_and_size("MPUB t\n", 501), "E_BAD_BODY MPUB body too big 501 > 500"),
        (line_and_size("IDENTIFY\n", 501), "E_BAD_BODY IDENTIFY body too big 501 > 500"),
        (in_mpub(&size(0)), "E_BAD_BODY MPUB invalid message count 0"),
        (in_mpub(&size(100)), "E_BAD_BODY MPUB invalid message count 100"),
        (in_mpub(&[one, size(0)].concat()), "E_BAD_MESSAGE MPUB invalid message(0) body size 0"),
        (in_mpub(&[one, size(101)].concat()), "E_BAD_MESSAGE MPUB message too big 101 > 100"),
        // What stands there when nothing more comes.
        (b"PUB t\n\0".to_vec(), "E_BAD_MESSAGE PUB failed to read message body size"),
        (line_and_size("PUB t\n", 5), "E_BAD_MESSAGE PUB failed to read message body"),
        (b"MPUB t\n".to_vec(), "E_BAD_BODY MPUB failed to read body size"),
        (in_mpub(b""), "E_BAD_BODY MPUB failed to read message count"),
        (in_mpub(&one), "E_BAD_MESSAGE MPUB failed to read message(0) body size"),
        (in_mpub(&[&one[..], &size(2), b"x"].concat()), "E_BAD_MESSAGE MPUB failed to read message body"),
        (b"IDENTIFY\n".to_vec(), "E_BAD_BODY IDENTIFY failed to read body size"),
        (line_and_size("IDENTIFY\n", 5), "E_BAD_BODY IDENTIFY failed to read body"),
    ] {
        let said = Some(Fault::Said(words.as_bytes().to_vec()));
        assert_eq!(read([&bytes[..]]), (Vec::new(), said), "{words}");
    }
    let consumers = read([&b"SUB t c\n"[..]]).1;
    assert!(
        matches!(&consumers, Some(Fault::Said(words)) if words.starts_with(b"E_INVALID SUB is for consumers"))
    );
}

#[test]
fn what_an_mpub_holds_is_bounded_whatever_it_announces() {
    let messages: Vec<&str> = std::iter::repeat_n("0123456789", 40).collect();
    let bytes = [b"MPUB t\n", &i32::to_be_bytes(9)[..], &mpub(&messages)].concat();
    let words = b"E_BAD_BODY MPUB body too big 508 > 500".to_vec();
    assert_eq!(read([&bytes[..]]).1, Some(Fault::Said(words)));
}

#[test]
fn a_line_beyond_nsqds_buffer_ends_the_connection_without_a_word() {
    let line = |length: usize| [&vec![b'a'; length - 1][..], b"\n"].concat();
    assert!(matches!(read([&line(16_384)[..]]).1, Some(Fault::Said(_))));
    assert_eq!(read([&line(16_385)[..]]).1, Some(Fault::Unsaid));
    assert_eq!(read([&[b'a'; 16_383][..]]).1, None);
    assert_eq!(read([&[b'a'; 16_384][..]]).1, Some(Fault::Unsaid));
}

fn any_command() -> impl Strategy<Value = Vec<u8>> {
    let body = || vec(any::<u8>(), 0..MSG + 2);
    prop_oneof![
        Just(b"NOP\n".to_vec()),
        body().prop_map(|body| command("PUB t", &body)),
        (0..4_000_000_u32, body()).prop_map(|(defer, body)| command(&format!("DPUB t {defer}"), &body)),
        vec(vec(any::<u8>(), 0..20), 0..8).prop_map(|bodies| {
            let count = (bodies.len() as i32).to_be_bytes().to_vec();
            let sized = bodies.iter().map(|body| sized(body));
            command("MPUB t", &[count].into_iter().chain(sized).collect::<Vec<_>>().concat())
        }),
        body().prop_map(|body| command("IDENTIFY", &body)),
        vec(any::<u8>(), 0..30),
    ]
}

proptest! {
    #[test]
    fn however_the_bytes_are_cut_the_commands_are_the_same(
        commands in vec(any_command(), 0..8),
        cuts in vec(1_usize..40, 1..30),
    ) {
        let bytes = commands.concat();
        let mut rest = &bytes[..];
        let pieces = cuts.iter().cycle().map_while(|&cut| {
            let (piece, behind) = rest.split_at(cut.min(rest.len()));
            rest = behind;
            (!piece.is_empty()).then_some(piece)
        });
        prop_assert_eq!(read(pieces.collect::<Vec<_>>()), read([&bytes[..]]));
    }

    #[test]
    fn nothing_makes_it_panic_or_publish_what_is_illegal(bytes in vec(any::<u8>(), 0..300), line in "(PUB|MPUB|DPUB|AUTH) [a-z ]{0,4}[0-9]{0,3}\n") {
        for bytes in [bytes.clone(), [line.as_bytes(), &bytes].concat()] {
            for command in read([&bytes[..]]).0 {
                if let Command::Publish(publish) = command {
                    prop_assert!(!publish.bodies.is_empty());
                    prop_assert!(publish.bodies.iter().all(|body| (1..=MSG).contains(&body.len())));
                }
            }
        }
    }
}
