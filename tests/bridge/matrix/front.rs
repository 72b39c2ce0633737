//! Stands before a RocketMQ server and knows its protocol: it can change the addresses a name server tells, and answer sends in a
//! broker's place.
//!
//! Frames pass as they came. Bytes that are cut, late or lost are [`Proxy`](nsqbridge_brokers::Proxy)'s, which stands
//! behind it.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::{Bytes, BytesMut};
use nsqbridge::rocketmq::{
    codes::request,
    command::{self, Command},
};
use nsqbridge_brokers::ports::Ports;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

/// What sends are answered in the broker's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    pub code: i32,
    pub remark: &'static str,
    /// Whether the broker gets them, and stores them, all the same.
    pub stored: bool,
}

pub struct Front {
    pub address: SocketAddr,
    state: Arc<State>,
    _ports: Ports,
    _serving: AbortOnDropHandle<()>,
}

struct State {
    target: SocketAddr,
    /// Of the same length, so that frames stay whole.
    told_instead: Vec<(Bytes, Bytes)>,
    refusal: Mutex<Option<Refusal>>,
}

impl Front {
    /// Serves in place of `target`; in what that says, these addresses stand for those.
    pub async fn start(target: SocketAddr, told_instead: &[(SocketAddr, SocketAddr)]) -> Self {
        let ports = Ports::claim().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], ports.get(0)));
        let listener = TcpListener::bind(address).await.unwrap();
        let told_instead = told_instead.iter().map(|(real, told)| {
            let [real, told] = [real, told].map(|address| Bytes::from(address.to_string()));
            assert_eq!(real.len(), told.len(), "frames would need other lengths");
            (real, told)
        });
        let state =
            Arc::new(State { target, told_instead: told_instead.collect(), refusal: Mutex::default() });
        let serving = Arc::clone(&state);
        let serving = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(serve(client, Arc::clone(&serving)));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, state, _ports: ports, _serving: AbortOnDropHandle::new(serving) }
    }

    /// What sends are answered from now on; `None` lets them through.
    pub fn refuse(&self, refusal: Option<Refusal>) {
        *self.state.refusal.lock().unwrap() = refusal;
    }
}

/// Answers by the requests they belong to.
type Answers = Mutex<HashMap<i32, Refusal>>;

async fn serve(client: TcpStream, state: Arc<State>) {
    // A server that is away: the client sees its connection closed.
    let Ok(server) = TcpStream::connect(state.target).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (to_client, answers) = (tokio::sync::Mutex::new(to_client), Answers::default());
    // Whoever closes first closes both.
    tokio::select! {
        () = requests(from_client, to_server, &to_client, &state, &answers) => {}
        () = responses(from_server, &to_client, &state, &answers) => {}
    }
}

async fn requests(
    mut client: OwnedReadHalf,
    mut server: OwnedWriteHalf,
    to_client: &tokio::sync::Mutex<OwnedWriteHalf>,
    state: &State,
    answers: &Answers,
) {
    let mut buffer = BytesMut::new();
    while let Some(frame) = next_frame(&mut client, &mut buffer).await {
        let refusal = *state.refusal.lock().unwrap();
        let asked = refusal.and_then(|_| command::decode(&mut BytesMut::from(&frame[..])).ok().flatten());
        let is_send =
            |asked: &Command| matches!(asked.code, request::SEND_MESSAGE_V2 | request::SEND_BATCH_MESSAGE);
        if let (Some(refusal), Some(asked)) = (refusal, asked.filter(is_send)) {
            if refusal.stored {
                answers.lock().unwrap().insert(asked.opaque, refusal);
            } else {
                let refused = to_client.lock().await.write_all(&answered(asked.opaque, refusal)).await;
                if refused.is_err() {
                    return;
                }
                continue;
            }
        }
        if server.write_all(&frame).await.is_err() {
            return;
        }
    }
}

async fn responses(
    mut server: OwnedReadHalf,
    to_client: &tokio::sync::Mutex<OwnedWriteHalf>,
    state: &State,
    answers: &Answers,
) {
    let mut buffer = BytesMut::new();
    while let Some(frame) = next_frame(&mut server, &mut buffer).await {
        let frame = state.answer(frame, answers);
        if to_client.lock().await.write_all(&frame).await.is_err() {
            return;
        }
    }
}

impl State {
    fn answer(&self, frame: Bytes, answers: &Answers) -> Bytes {
        if !self.told_instead.is_empty() {
            return self.told_instead.iter().fold(frame, |frame, (real, told)| replace(&frame, real, told));
        }
        let mut answers = answers.lock().unwrap();
        if answers.is_empty() {
            return frame;
        }
        let answer = command::decode(&mut BytesMut::from(&frame[..])).ok().flatten();
        let refusal = answer.as_ref().filter(|answer| answer.is_response());
        match refusal.and_then(|answer| Some((answer.opaque, answers.remove(&answer.opaque)?))) {
            Some((opaque, refusal)) => answered(opaque, refusal),
            None => frame,
        }
    }
}

fn answered(opaque: i32, refusal: Refusal) -> Bytes {
    let asked = Command { opaque, ..Command::default() };
    let answer = Command::response_to(&asked, refusal.code, Some(refusal.remark.to_owned()));
    let mut frame = BytesMut::new();
    command::encode(&answer, &mut frame);
    frame.freeze()
}

fn replace(frame: &Bytes, real: &Bytes, told: &Bytes) -> Bytes {
    let mut changed = BytesMut::from(&frame[..]);
    for at in 0..=changed.len().saturating_sub(real.len()) {
        if changed[at..].starts_with(real) {
            changed[at..at + told.len()].copy_from_slice(told);
        }
    }
    changed.freeze()
}

/// The next whole frame with its length; `None` at the end.
async fn next_frame(from: &mut OwnedReadHalf, buffer: &mut BytesMut) -> Option<Bytes> {
    loop {
        let length = buffer.first_chunk::<4>().map(|length| 4 + u32::from_be_bytes(*length) as usize);
        if let Some(length) = length.filter(|length| buffer.len() >= *length) {
            return Some(buffer.split_to(length).freeze());
        }
        if !matches!(from.read_buf(buffer).await, Ok(1..)) {
            return None;
        }
    }
}
