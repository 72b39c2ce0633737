//! What the client makes of nsqd's answers, and of silence.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use super::*;

const SOON: Duration = Duration::from_secs(5);

/// An HTTP server that gives prepared answers, one a request, and then hangs up without one.
pub(crate) struct Server {
    pub(crate) address: HttpAddress,
    requests: mpsc::Receiver<String>,
}

impl Server {
    pub(crate) async fn start(answers: &[(u16, &str)]) -> Self {
        let answers = answers.iter().map(|(status, body)| {
            format!(
                "HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
        });
        let answers: Vec<String> = answers.collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = HttpAddress::new("127.0.0.1", listener.local_addr().unwrap().port());
        let (seen, requests) = mpsc::channel(16);
        tokio::spawn(async move {
            let mut answers = answers.into_iter();
            while let Ok((mut stream, _)) = listener.accept().await {
                seen.send(request(&mut stream).await).await.ok();
                if let Some(answer) = answers.next() {
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            }
        });
        Self { address, requests }
    }

    fn client(&self) -> Nsqd {
        Nsqd::new(self.address.clone())
    }

    /// The next request's first line and body.
    async fn request(&mut self) -> (String, String) {
        let request = self.requests.recv().await.unwrap();
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        let line = head.lines().next().unwrap();
        (line.strip_suffix(" HTTP/1.1").unwrap().to_owned(), body.to_owned())
    }
}

async fn request(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&read).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let announced = head.to_lowercase().lines().find_map(|line| {
                line.strip_prefix("content-length: ").map(|length| length.parse::<usize>().unwrap())
            });
            if body.len() >= announced.unwrap_or(0) {
                return text;
            }
        }
        assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0, "the client hung up");
    }
}

fn topic() -> TopicName {
    "t.1#ephemeral".parse().unwrap()
}

#[tokio::test]
async fn requests_are_written_as_nsqd_reads_them() {
    let mut server =
        Server::start(&[(200, "OK"), (200, "OK"), (200, "OK"), (200, ""), (200, ""), (200, "OK")]).await;
    let nsqd = server.client();
    nsqd.mpub(&topic(), Bytes::from_static(b"payload"), SOON).await.unwrap();
    let line = "POST /mpub?binary=true&topic=t.1%23ephemeral".to_owned();
    assert_eq!(server.request().await, (line, "payload".to_owned()));
    nsqd.publish(&topic(), Bytes::from_static(b"b"), None, SOON).await.unwrap();
    assert_eq!(server.request().await, ("POST /pub?topic=t.1%23ephemeral".to_owned(), "b".to_owned()));
    let defer = Duration::from_micros(1_500_001);
    nsqd.publish(&topic(), Bytes::from_static(b"b"), Some(defer), SOON).await.unwrap();
    assert!(server.request().await.0.ends_with("&defer=1501"), "never earlier than asked");
    nsqd.create_topic(&topic()).await.unwrap();
    assert_eq!(server.request().await.0, "POST /topic/create?topic=t.1%23ephemeral");
    nsqd.create_channel(&topic(), &"c#ephemeral".parse().unwrap()).await.unwrap();
    assert_eq!(server.request().await.0, "POST /channel/create?topic=t.1%23ephemeral&channel=c%23ephemeral");
}

#[tokio::test]
async fn only_200_and_exactly_ok_prove_a_publish() {
    for answer in [(200, ""), (200, "OK\n"), (200, "ok"), (200, r#"{"status":"OK"}"#)] {
        let error = mpub(&Server::start(&[answer]).await).await;
        assert!(matches!(error, HttpError::Unknown { .. }), "{answer:?}: {error}");
    }
    for answer in [(202, "OK"), (204, ""), (301, "OK"), (503, "OK")] {
        let error = mpub(&Server::start(&[answer]).await).await;
        assert!(matches!(error, HttpError::Refused { .. }), "{answer:?}: {error}");
    }
}

async fn mpub(server: &Server) -> HttpError {
    server.client().mpub(&topic(), Bytes::from_static(b"b"), SOON).await.unwrap_err()
}

#[tokio::test]
async fn a_refusal_carries_nsqds_code_in_any_of_its_forms() {
    for (body, expected) in [
        (r#"{"message":"MSG_TOO_BIG"}"#, "MSG_TOO_BIG"),
        (r#"{"status_code":413,"status_txt":"MSG_TOO_BIG","data":null}"#, "MSG_TOO_BIG"),
        ("NOK - no space left on device", "NOK - no space left on device"),
    ] {
        let error = mpub(&Server::start(&[(413, body)]).await).await;
        assert!(
            matches!(&error, HttpError::Refused { status: 413, code, .. } if code == expected),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_refused_connection_is_not_sent_and_silence_is_unknown() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nsqd = Nsqd::new(HttpAddress::new("127.0.0.1", listener.local_addr().unwrap().port()));
    let silence =
        nsqd.mpub(&topic(), Bytes::from_static(b"b"), Duration::from_millis(200)).await.unwrap_err();
    assert!(matches!(silence, HttpError::Unknown { .. }), "{silence}");
    drop(listener);
    let refused = nsqd.mpub(&topic(), Bytes::from_static(b"b"), SOON).await.unwrap_err();
    assert!(matches!(refused, HttpError::NotSent { .. }), "{refused}");
    let hung_up = mpub(&Server::start(&[]).await).await;
    assert!(matches!(hung_up, HttpError::Unknown { .. }), "{hung_up}");
}

#[tokio::test]
async fn statistics_may_lack_lists_but_no_counter() {
    let channel = r#"{"channel_name":"c","depth":1,"backend_depth":2,"in_flight_count":3,"deferred_count":4,
        "message_count":5,"requeue_count":6,"timeout_count":7,"client_count":0,"clients":null,"paused":true}"#;
    let with = |channel: &str| {
        format!(
            r#"{{"version":"1.3.0","health":"OK","start_time":9,"producers":null,"topics":[{{"topic_name":"t",
            "channels":[{channel}],"depth":1,"backend_depth":0,"message_count":8,"paused":false}}]}}"#
        )
    };
    let uncounted = with(&channel.replace(r#""in_flight_count":3,"#, ""));
    let none = r#"{"version":"1.3.0","health":"OK","start_time":9,"topics":null}"#;
    let server = Server::start(&[(200, &with(channel)), (200, none), (200, &uncounted)]).await;
    let nsqd = server.client();
    let stats = nsqd.stats(Some(&topic())).await.unwrap();
    assert_eq!((stats.start_time, stats.topics[0].message_count), (9, 8));
    let channel = &stats.topics[0].channels[0];
    assert_eq!((channel.in_flight_count, channel.timeout_count, channel.paused), (3, 7, true));
    assert!(nsqd.stats(None).await.unwrap().topics.is_empty());
    let error = nsqd.stats(None).await.unwrap_err();
    assert!(error.to_string().contains("in_flight_count"), "{error}");
}
