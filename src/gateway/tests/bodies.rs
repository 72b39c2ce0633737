//! How bodies come, and what becomes of those that are not wanted.

use super::*;

#[tokio::test]
async fn a_body_is_published_byte_for_byte_however_it_comes() {
    let mut gateway = Gateway::start().await;
    let every_byte: Vec<u8> = (0..=255).cycle().take(1_048_576).collect();
    let (topic, bodies, _) = gateway.stored(&post("/pub?topic=a.b%23ephemeral", &every_byte)).await;
    assert_eq!((topic.as_str(), &bodies[..]), ("a.b#ephemeral", &[Bytes::from(every_byte.clone())][..]));
    let pieces: Vec<&[u8]> = every_byte.chunks(10_000).collect();
    let (_, bodies, _) = gateway.stored(&chunked("/pub?topic=t", &pieces)).await;
    assert_eq!(bodies, [Bytes::from(every_byte)]);
    let (_, bodies, _) = gateway.stored(&chunked("/pub?topic=t", &[&b"x"[..]; 5_000])).await;
    assert_eq!(bodies, ["x".repeat(5_000)]);
}

#[tokio::test]
async fn an_mpub_is_one_publish_of_all_its_messages_in_order() {
    let mut gateway = Gateway::start().await;
    let (_, bodies, _) = gateway.stored(&post("/mpub?topic=t", "a\r\n\nb\n")).await;
    assert_eq!(bodies, ["a\r", "b"]);
    for target in ["/mpub?topic=t&binary=0", "/mpub?topic=t&binary=false"] {
        assert_eq!(gateway.stored(&post(target, "a")).await.1, ["a"]);
    }
    let with_rest = [&binary(2, &[b"\n", b"\0"])[..], b"rest"].concat();
    let (_, bodies, _) = gateway.stored(&chunked("/mpub?topic=t&binary=true", &[&with_rest])).await;
    assert_eq!(bodies, ["\n", "\0"]);
    let largest = vec![b'\n'; 5_242_879];
    let (_, bodies, _) = gateway.stored(&post("/mpub?topic=t", [&largest[..], b"a"].concat())).await;
    assert_eq!(bodies, ["a"]);
}

#[tokio::test]
async fn an_mpub_of_nothing_is_ok_and_publishes_nothing() {
    let mut gateway = Gateway::start().await;
    for nothing in ["", "\n", "\n\n\n"] {
        gateway.refusal(&post("/mpub?topic=t", nothing)).await.assert_ok();
    }
}

#[tokio::test]
async fn a_binary_mpub_in_chunks_beyond_the_limit_is_refused_for_its_size() {
    let mut gateway = Gateway::start().await;
    let message = vec![b'a'; 1_000_000];
    let six = binary(6, &[&message[..]; 6]);
    gateway.refusal(&chunked("/mpub?topic=t&binary=1", &[&six])).await.assert_error(413, "BODY_TOO_BIG");
    let mut one_beyond = binary(6, &[&message[..]; 5]);
    let last = 5_242_880 - one_beyond.len() - 4 + 1;
    one_beyond.extend_from_slice(&binary(0, &[&message[..last]])[4..]);
    let request = chunked("/mpub?topic=t&binary=1", &[&one_beyond]);
    gateway.refusal(&request).await.assert_error(413, "BODY_TOO_BIG");
    let rest_beyond = [&binary(1, &[b"a"])[..], &six].concat();
    let (_, bodies, _) = gateway.stored(&chunked("/mpub?topic=t&binary=1", &[&rest_beyond])).await;
    assert_eq!(bodies, ["a"], "nsqd ignores what follows the last message");
}

/// The answer to a client that sends everything before it looks for one.
///
/// The gateway waits half a second for such a client, which a busy machine may take longer to run: one try in ten
/// has to do.
async fn answer_after_sending(gateway: &Gateway, head: &[u8], pieces: &[&[u8]]) -> Answer {
    for _ in 0..10 {
        let mut client = gateway.connect().await;
        let sent = async {
            client.stream.write_all(head).await?;
            for piece in pieces {
                client.stream.write_all(piece).await?;
                // The next one meets a gateway that has answered.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            client.read_answer().await
        };
        if let Ok(answer) = timeout(SOON, sent).await.expect("stuck") {
            return answer;
        }
    }
    panic!("the answer was lost every time");
}

#[tokio::test]
async fn a_client_that_keeps_sending_gets_to_read_its_413() {
    let gateway = Gateway::start().await;
    let pieces = [&[b'a'; 1_000_000][..]; 6];
    for (target, code) in [("/pub?topic=t", "MSG_TOO_BIG"), ("/mpub?topic=t", "BODY_TOO_BIG")] {
        let head = head("POST", target, &["Content-Length: 6000000"]);
        let answer = answer_after_sending(&gateway, &head, &pieces).await;
        answer.assert_error(413, code);
        assert!(answer.closes());
    }
}

#[tokio::test]
async fn a_client_that_sends_slowly_hears_413_at_once() {
    let gateway = Gateway::start().await;
    let mut client = gateway.connect().await;
    client.send(&head("POST", "/pub?topic=t", &["Content-Length: 2000000"])).await;
    client.answer().await.assert_error(413, "MSG_TOO_BIG");
    client.send(b"more").await;
    client.assert_ends().await;
}

#[tokio::test]
async fn a_small_refused_body_leaves_the_connection_to_the_next_request() {
    let mut gateway = Gateway::start().await;
    let mut client = gateway.connect().await;
    let small = vec![b'a'; 200_000];
    for refused in [
        post("/mpub", &small),
        chunked("/mpub", &[&small]),
        post("/nothing", &small),
        chunked("/pub?topic=t", &[&[b'a'; 1_048_577]]),
        post("/pub?topic=t", ""),
        post("/pub?topic=", "x"),
        [&head("GET", "/ping", &["Content-Length: 3"])[..], b"abc"].concat(),
    ] {
        client.send(&refused).await;
        let answer = client.answer().await;
        assert!(!answer.closes(), "{answer:?}");
    }
    client.send(&post("/pub?topic=t", "x")).await;
    gateway.asked().await.answer.send(Ok(())).unwrap();
    client.answer().await.assert_ok();
}

#[tokio::test]
async fn a_refused_body_of_256_kib_ends_the_connection() {
    let gateway = Gateway::start().await;
    let large = vec![b'a'; 300_000];
    for request in [post("/mpub", &large[..262_144]), chunked("/mpub", &[&large])] {
        let mut client = gateway.connect().await;
        client.send(&request).await;
        let answer = client.answer().await;
        answer.assert_error(400, "MISSING_ARG_TOPIC");
        assert!(answer.closes());
        client.assert_ends().await;
    }
}

#[tokio::test]
async fn a_body_that_is_never_sent_does_not_hold_its_refusal_back() {
    let gateway = Gateway::start().await;
    let mut client = gateway.connect().await;
    client.send(&head("POST", "/nothing", &["Content-Length: 2048"])).await;
    let answer = client.answer().await;
    answer.assert_error(404, "NOT_FOUND");
    assert!(answer.closes());
    client.assert_ends().await;
}

#[tokio::test]
async fn a_client_that_waits_for_100_is_asked_for_its_body() {
    let mut gateway = Gateway::start().await;
    for expect in ["Expect: 100-continue", "Expect: 100-Continue"] {
        let mut client = gateway.connect().await;
        client.send(&head("POST", "/pub?topic=t", &[expect, "Content-Length: 1"])).await;
        assert_eq!(client.answer().await.status, "HTTP/1.1 100 Continue");
        client.send(b"x").await;
        gateway.asked().await.answer.send(Ok(())).unwrap();
        client.answer().await.assert_ok();
    }
}

#[tokio::test]
async fn a_client_that_waits_for_100_is_refused_without_it() {
    let gateway = Gateway::start().await;
    for (target, length, status, code) in [
        ("/pub?topic=t", 2_000_000, 413, "MSG_TOO_BIG"),
        ("/mpub", 2, 400, "MISSING_ARG_TOPIC"),
        ("/nothing", 2, 404, "NOT_FOUND"),
    ] {
        let mut client = gateway.connect().await;
        let length = format!("Content-Length: {length}");
        client.send(&head("POST", target, &["Expect: 100-continue", &length])).await;
        let answer = client.answer().await;
        answer.assert_error(status, code);
        assert!(answer.closes());
        client.assert_ends().await;
    }
}

#[tokio::test]
async fn a_client_that_announces_to_wait_for_100_and_does_not_gets_to_read_its_413() {
    let gateway = Gateway::start().await;
    let head = head("POST", "/pub?topic=t", &["Expect: 100-continue", "Content-Length: 1100000"]);
    let answer = answer_after_sending(&gateway, &head, &[&[b'a'; 100_000][..]; 4]).await;
    answer.assert_error(413, "MSG_TOO_BIG");
}

#[tokio::test]
async fn a_body_that_cannot_be_read_is_an_internal_error_and_never_published() {
    let mut gateway = Gateway::start().await;
    let in_chunks = head("POST", "/pub?topic=t", &["Transfer-Encoding: chunked"]);
    let measured = head("POST", "/pub?topic=t", &["Content-Length: 5"]);
    for (head, cut_body) in [(&in_chunks, &b"5\r\nab"[..]), (&in_chunks, b"1\r\na\r\n"), (&measured, b"ab")] {
        let mut client = gateway.connect().await;
        client.send(&[head, cut_body].concat()).await;
        client.stream.shutdown().await.unwrap();
        client.answer().await.assert_error(500, "INTERNAL_ERROR");
        client.assert_ends().await;
    }
    let not_chunks = gateway.refusal(&[&in_chunks[..], b"zz\r\nabc\r\n"].concat()).await;
    not_chunks.assert_error(500, "INTERNAL_ERROR");
    assert!(not_chunks.closes(), "nobody knows where the next request would begin");
    assert!(gateway.asked.try_recv().is_err());
}
