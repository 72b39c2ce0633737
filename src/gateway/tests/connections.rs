//! Connections: kept, shared by several requests, left by their clients, and drained.

use tokio::task::yield_now;

use super::*;

#[tokio::test]
async fn pipelined_requests_are_published_and_answered_in_order() {
    let mut gateway = Gateway::start().await;
    let mut client = gateway.connect().await;
    let requests = [post("/pub?topic=t", "1"), post("/pub?topic=t", ""), post("/pub?topic=t", "2")];
    client.send(&requests.concat()).await;
    let first = gateway.asked().await;
    assert_eq!(first.bodies, ["1"]);
    first.answer.send(Ok(())).unwrap();
    client.answer().await.assert_ok();
    client.answer().await.assert_error(400, "MSG_EMPTY");
    let second = gateway.asked().await;
    assert_eq!(second.bodies, ["2"]);
    second.answer.send(Ok(())).unwrap();
    client.answer().await.assert_ok();
}

#[tokio::test]
async fn http_1_0_is_answered_in_its_own_way() {
    let mut gateway = Gateway::start().await;
    for keep in [false, true] {
        let mut client = gateway.connect().await;
        let header = if keep { "Connection: keep-alive\r\n" } else { "" };
        let request = format!("POST /pub?topic=t HTTP/1.0\r\n{header}Content-Length: 1\r\n\r\nx");
        client.send(request.as_bytes()).await;
        gateway.asked().await.answer.send(Ok(())).unwrap();
        let answer = client.answer().await;
        assert_eq!((answer.status.as_str(), answer.body.as_str()), ("HTTP/1.0 200 OK", "OK"));
        if keep {
            assert_eq!(answer.header("Connection"), Some("keep-alive"));
            client.send(b"GET /ping HTTP/1.0\r\n\r\n").await;
            assert_eq!(client.answer().await.status, "HTTP/1.0 200 OK");
        }
        client.assert_ends().await;
    }
}

#[tokio::test]
async fn a_large_head_is_read() {
    let mut gateway = Gateway::start().await;
    let large = format!("X-Large: {}", "a".repeat(60_000));
    let many: Vec<String> = (0..250).map(|number| format!("X-{number}: a")).collect();
    for headers in [vec![large.as_str()], many.iter().map(String::as_str).collect()] {
        let request =
            [&head("POST", "/pub?topic=t", &[&headers[..], &["Content-Length: 1"]].concat())[..], b"x"];
        gateway.stored(&request.concat()).await;
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_cancels_nothing_and_a_drain_waits_for_what_it_began() {
    let mut gateway = Gateway::start().await;
    let mut client = gateway.connect().await;
    client.send(&post("/pub?topic=t", "x")).await;
    let asked = gateway.asked().await;
    // Reset, not closed: only then does the server stop to wait for the answer.
    client.stream.set_zero_linger().unwrap();
    drop(client);
    gateway.drain.cancel();
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    assert!(!gateway.serving.is_finished(), "drained over a publish under way");
    asked.answer.send(Ok(())).expect("the publish was given up");
    gateway.drained().await;
}

#[tokio::test]
async fn a_client_that_has_ended_its_side_is_answered() {
    let mut gateway = Gateway::start().await;
    let mut client = gateway.connect().await;
    client.send(&post("/pub?topic=t", "x")).await;
    client.stream.shutdown().await.unwrap();
    let asked = gateway.asked().await;
    // Time enough for the gateway to see that nothing more will come.
    tokio::time::sleep(Duration::from_millis(200)).await;
    asked.answer.send(Ok(())).unwrap();
    client.answer().await.assert_ok();
    client.assert_ends().await;
}

#[tokio::test]
async fn a_drain_finishes_what_was_begun_and_then_closes() {
    let mut gateway = Gateway::start().await;
    let mut publishing = gateway.connect().await;
    publishing.send(&post("/pub?topic=t", "x")).await;
    let asked = gateway.asked().await;
    let mut sending = gateway.connect().await;
    sending.send(&head("POST", "/pub?topic=t", &["Expect: 100-continue", "Content-Length: 2"])).await;
    assert_eq!(sending.answer().await.status, "HTTP/1.1 100 Continue");

    gateway.drain.cancel();
    asked.answer.send(Ok(())).unwrap();
    let answer = publishing.answer().await;
    answer.assert_ok();
    assert!(answer.closes(), "the producer must learn that nothing can follow");
    publishing.assert_ends().await;

    // Longer than an idle connection is kept: this one is in the middle of a request, and stays.
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    sending.send(b"xy").await;
    let asked = gateway.asked().await;
    assert_eq!(asked.bodies, ["xy"]);
    asked.answer.send(Ok(())).unwrap();
    sending.answer().await.assert_ok();
    sending.assert_ends().await;
    gateway.drained().await;
}

#[tokio::test]
async fn a_request_that_comes_while_draining_hears_exiting_and_the_connection_ends() {
    let mut gateway = Gateway::start().await;
    let mut kept = gateway.connect().await;
    kept.send(&post("/mpub?topic=t", "")).await;
    kept.answer().await.assert_ok();
    let mut fresh = gateway.connect().await;
    fresh.send(b"POST /pub?topic=t HTTP/1.1\r\n").await;
    let mut large = gateway.connect().await;
    large.send(&post("/mpub?topic=t", "")).await;
    large.answer().await.assert_ok();

    gateway.drain.cancel();
    yield_now().await;
    kept.send(&post("/pub?topic=t", "x")).await;
    fresh.send(b"Host: nsqd\r\nContent-Length: 1\r\n\r\nx").await;
    large.send(&post("/pub?topic=t", vec![b'a'; 1_000_000])).await;
    for client in [&mut kept, &mut fresh, &mut large] {
        let answer = client.answer().await;
        answer.assert_error(503, "EXITING");
        assert!(answer.closes());
        client.assert_ends().await;
    }
    assert!(gateway.asked.try_recv().is_err());
    let address = gateway.address;
    gateway.drained().await;
    assert!(TcpStream::connect(address).await.is_err(), "still listening");
}

#[tokio::test]
async fn a_request_that_never_comes_to_its_end_does_not_hold_a_drain_up_for_ever() {
    let gateway = Gateway::start().await;
    let mut stuck = gateway.connect().await;
    stuck.send(&head("POST", "/pub?topic=t", &["Expect: 100-continue", "Content-Length: 2"])).await;
    assert_eq!(stuck.answer().await.status, "HTTP/1.1 100 Continue");
    // From here on nothing happens but time.
    tokio::time::pause();
    gateway.drain.cancel();
    gateway.drained().await;
}

#[tokio::test]
async fn a_drain_closes_idle_connections_in_order() {
    let gateway = Gateway::start().await;
    let mut unused = gateway.connect().await;
    // Connections are accepted in turn: with this one answered, the other is accepted too.
    let mut used = gateway.connect().await;
    used.send(&head("GET", "/ping", &[])).await;
    assert_eq!(used.answer().await.body, "OK");
    gateway.drain.cancel();
    used.assert_ends().await;
    gateway.drained().await;
    unused.assert_ends().await;
}

#[tokio::test]
async fn dropping_the_server_ends_everything_at_once() {
    let mut gateway = Gateway::start().await;
    let mut client = gateway.connect().await;
    client.send(&post("/pub?topic=t", "x")).await;
    let asked = gateway.asked().await;
    drop(gateway);
    client.assert_ends().await;
    asked.answer.send(Ok(())).expect("what has begun is not taken back");
}
