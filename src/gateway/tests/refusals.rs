//! What is refused, with which words, and in which order the reasons are looked for.

use super::*;

const MAX_MSG: usize = 1_048_576;
const MAX_BODY: usize = 5_242_880;

#[tokio::test]
async fn pub_refuses_in_nsqds_order_and_words() {
    let mut gateway = Gateway::start().await;
    let too_big = vec![b'a'; MAX_MSG + 1];
    for (request, status, code) in [
        (post("/pub", &too_big), 413, "MSG_TOO_BIG"),
        (chunked("/pub", &[&too_big]), 413, "MSG_TOO_BIG"),
        (chunked("/pub", &[&too_big[1..], b"a"]), 413, "MSG_TOO_BIG"),
        (post("/pub", ""), 400, "MSG_EMPTY"),
        (post("/pub?topic=%zz", ""), 400, "MSG_EMPTY"),
        (chunked("/pub", &[]), 400, "MSG_EMPTY"),
        (head("POST", "/pub?topic=t", &[]), 400, "MSG_EMPTY"),
        (post("/pub?topic=%zz", "x"), 400, "INVALID_REQUEST"),
        (post("/pub?topic=a;b", "x"), 400, "INVALID_REQUEST"),
        (post("/pub?x=%&topic=t", "x"), 400, "INVALID_REQUEST"),
        (post("/pub", "x"), 400, "MISSING_ARG_TOPIC"),
        (post("/pub", "topic=t"), 400, "MISSING_ARG_TOPIC"),
        (post("/pub?Topic=t", "x"), 400, "MISSING_ARG_TOPIC"),
        (post("/pub?defer=x", "x"), 400, "MISSING_ARG_TOPIC"),
        (post("/pub?topic", "x"), 400, "INVALID_TOPIC"),
        (post("/pub?topic=a+b", "x"), 400, "INVALID_TOPIC"),
        (post("/pub?topic=%ff", "x"), 400, "INVALID_TOPIC"),
        (post(&format!("/pub?topic={}", "a".repeat(65)), "x"), 400, "INVALID_TOPIC"),
        (post("/pub?topic=a%20&defer=x", "x"), 400, "INVALID_TOPIC"),
    ] {
        gateway.refusal(&request).await.assert_error(status, code);
    }
}

#[tokio::test]
async fn mpub_refuses_in_nsqds_order_and_words() {
    let mut gateway = Gateway::start().await;
    let long_line = vec![b'a'; MAX_MSG + 1];
    let newlines = vec![b'\n'; MAX_BODY + 1];
    let long_body = head("POST", "/mpub", &[&format!("Content-Length: {}", MAX_BODY + 1)]);
    for (request, status, code) in [
        (long_body, 413, "BODY_TOO_BIG"),
        (post("/mpub?topic=%zz", ""), 400, "INVALID_REQUEST"),
        (post("/mpub", ""), 400, "MISSING_ARG_TOPIC"),
        (post("/mpub?topic=a%20", binary(0, &[])), 400, "INVALID_TOPIC"),
        (post("/mpub?topic=t", [b"a\n", &long_line[..]].concat()), 413, "MSG_TOO_BIG"),
        (chunked("/mpub?topic=t", &[&newlines]), 413, "BODY_TOO_BIG"),
        (chunked("/mpub?topic=t", &[&long_line, &newlines]), 413, "MSG_TOO_BIG"),
        (post("/mpub?topic=t&binary=true", ""), 413, "BAD_BODY"),
        (post("/mpub?topic=t&binary=1", [0, 0, 0]), 413, "BAD_BODY"),
        (post("/mpub?topic=t&binary=", binary(0, &[])), 413, "BAD_BODY"),
        (post("/mpub?topic=t&binary=TRUE", binary(-1, &[])), 413, "BAD_BODY"),
        (post("/mpub?topic=t&binary", binary(1_048_576, &[])), 413, "BAD_BODY"),
        (post("/mpub?topic=t&binary=x", binary(1_048_575, &[])), 413, "BAD_MESSAGE"),
        (post("/mpub?topic=t&binary=true", binary(2, &[b"a"])), 413, "BAD_MESSAGE"),
        (post("/mpub?topic=t&binary=true", binary(1, &[b""])), 413, "BAD_MESSAGE"),
        (post("/mpub?topic=t&binary=true", binary(1, &[&long_line])), 413, "BAD_MESSAGE"),
        (post("/mpub?topic=t&binary=true", [&binary(1, &[])[..], &[255; 4]].concat()), 413, "BAD_MESSAGE"),
    ] {
        gateway.refusal(&request).await.assert_error(status, code);
    }
}

#[tokio::test]
async fn a_status_line_is_gos_to_the_word() {
    let mut gateway = Gateway::start().await;
    let answer = gateway.refusal(&post("/mpub?topic=t&binary=true", "")).await;
    assert_eq!(answer.status, "HTTP/1.1 413 Request Entity Too Large");
}

#[tokio::test]
async fn a_bad_defer_is_refused_after_the_topic_was_created() {
    let mut gateway = Gateway::start().await;
    let overflowing = "18446744073710";
    for defer in
        ["", "a", "-1", "1.5", "%201", "+5", "1_0", "0x1", "3600001", "9223372036854775808", overflowing]
    {
        let mut client = gateway.connect().await;
        client.send(&post(&format!("/pub?topic=t&defer={defer}"), "x")).await;
        let created = gateway.asked().await;
        assert!(created.bodies.is_empty() && created.topic.as_str() == "t", "{created:?}");
        created.answer.send(Ok(())).unwrap();
        client.answer().await.assert_error(400, "INVALID_DEFER");
    }
}

#[tokio::test]
async fn a_good_defer_is_milliseconds_and_the_first_counts() {
    let mut gateway = Gateway::start().await;
    for (defer, expected) in [
        ("0", None),
        ("-0", None),
        ("1", Some(1)),
        ("007", Some(7)),
        ("%2B5", Some(5)),
        ("1&defer=x", Some(1)),
        ("3600000", Some(3_600_000)),
    ] {
        let (_, bodies, deferred) = gateway.stored(&post(&format!("/pub?topic=t&defer={defer}"), "x")).await;
        assert_eq!(
            (deferred, bodies),
            (expected.map(Duration::from_millis), vec![Bytes::from("x")]),
            "{defer}"
        );
    }
    let (_, _, deferred) = gateway.stored(&post("/mpub?topic=t&defer=zz", "x")).await;
    assert_eq!(deferred, None, "mpub knows no defer");
}

#[tokio::test]
async fn whatever_keeps_a_message_from_being_stored_is_exiting_unless_it_always_will() {
    let mut gateway = Gateway::start().await;
    for (error, status, code) in [
        (PublishError::Unavailable("down".to_owned()), 503, "EXITING"),
        (PublishError::Unknown("silence".to_owned()), 503, "EXITING"),
        (PublishError::Refused("never".to_owned()), 400, "INVALID_REQUEST"),
    ] {
        let mut client = gateway.connect().await;
        client.send(&post("/pub?topic=t", "x")).await;
        gateway.asked().await.answer.send(Err(error)).unwrap();
        let answer = client.answer().await;
        answer.assert_error(status, code);
        assert!(!answer.closes(), "the connection is good for another try");
    }
}

#[tokio::test]
async fn paths_and_methods_are_answered_as_by_nsqds_router() {
    let mut gateway = Gateway::start().await;
    gateway.refusal(&head("GET", "/nothing", &[])).await.assert_error(404, "NOT_FOUND");
    let wrong_method = gateway.refusal(&head("GET", "/pub?topic=t", &[])).await;
    wrong_method.assert_error(405, "METHOD_NOT_ALLOWED");
    assert_eq!(wrong_method.header("Allow"), Some("OPTIONS, POST"));
    let options = gateway.refusal(&head("OPTIONS", "/ping", &[])).await;
    assert_eq!((options.status.as_str(), options.header("Allow")), ("HTTP/1.1 200 OK", Some("GET, OPTIONS")));
    assert_eq!((options.header("Content-Length"), options.header("Content-Type")), (Some("0"), None));
    let redirect = gateway.refusal(&post("//pub?topic=t", "x")).await;
    assert_eq!(redirect.status, "HTTP/1.1 307 Temporary Redirect");
    assert_eq!(redirect.header("Location"), Some("/pub?topic=t"));
    let ping = gateway.refusal(&head("GET", "/ping", &[])).await;
    assert_eq!((ping.status.as_str(), ping.body.as_str()), ("HTTP/1.1 200 OK", "OK"));
    assert_eq!(ping.header("X-Nsq-Content-Type"), None);
}

#[tokio::test]
async fn what_go_would_not_show_to_nsqd_is_refused_and_the_connection_ends() {
    let mut gateway = Gateway::start().await;
    let body = "1\r\nx\r\n0\r\n\r\n";
    let chunks_and = |encoding: &str| {
        let head = head("POST", "/pub?topic=t", &[&format!("Transfer-Encoding: {encoding}")]);
        [&head[..], body.as_bytes()].concat()
    };
    for (request, status) in [
        (b"POST /pub?topic=t HTTP/1.1\r\nContent-Length: 1\r\n\r\nx".to_vec(), "400 Bad Request"),
        (head("GET", "/ping", &["Host: another"]), "400 Bad Request"),
        (head("GET", "/ping%zz", &[]), "400 Bad Request"),
        (chunks_and("gzip, chunked"), "501 Not Implemented"),
        (head("POST", "/pub?topic=t", &["Expect: something", "Content-Length: 1"]), "417 Expectation Failed"),
    ] {
        let mut client = gateway.connect().await;
        client.send(&request).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, format!("HTTP/1.1 {status}"), "{}", String::from_utf8_lossy(&request));
        assert!(answer.closes());
        client.assert_ends().await;
    }
    assert!(gateway.asked.try_recv().is_err());
}
