//! What is sent.

pub mod basics;
pub mod bodies;
pub mod channels;
pub mod config;
pub mod debug;
pub mod defer;
pub mod expect;
pub mod head_limits;
pub mod heads;
pub mod info;
pub mod mpub_binary;
pub mod mpub_text;
pub mod publish;
pub mod query;
pub mod router;
pub mod small_limits;
pub mod stats;
pub mod topics;
pub mod unread;

use super::{comparison::Compared, differences::Differs, request::Request};

/// nsqd's default for the largest message.
pub const MAX_MSG: usize = 1_048_576;
/// nsqd's default for the largest body.
pub const MAX_BODY: usize = 5_242_880;
/// Publishes one message.
pub const PUB: &str = "/pub?topic=t";
/// Publishes lines.
pub const MPUB: &str = "/mpub?topic=t";
/// Publishes a binary batch.
pub const BINARY: &str = "/mpub?topic=t&binary=true";

/// One conversation over one connection.
#[derive(Debug, Clone)]
pub struct Case {
    pub name: String,
    /// Topics that exist beforehand.
    pub given: Vec<&'static str>,
    pub steps: Vec<Step>,
    /// The methods of the requests, each of which should be answered.
    pub methods: Vec<&'static str>,
    pub compared: Compared,
    pub differs: Option<Differs>,
}

/// What the client does.
#[derive(Debug, Clone)]
pub enum Step {
    Send(Vec<u8>),
    /// Sends without looking at what comes back, as simple clients do.
    SendBlindly(Vec<u8>),
    /// Waits for `100 Continue`, and sends only then.
    OnceAsked(Vec<u8>),
    /// Ends its side, as `nc -N` does.
    HalfClose,
}

/// A case that sends one request.
pub fn case(name: impl Into<String>, request: Request) -> Case {
    Case { methods: vec![request.method], ..bytes(name, request.bytes()) }
}

/// A case that sends bytes, which should be answered once.
pub fn bytes(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Case {
    Case {
        name: name.into(),
        given: Vec::new(),
        steps: vec![Step::Send(bytes.into())],
        methods: vec!["GET"],
        compared: Compared::Exactly,
        differs: None,
    }
}

impl Case {
    /// A further request in the same write, before any answer.
    pub fn pipelined(mut self, request: &Request) -> Self {
        if let Some(Step::Send(bytes)) = self.steps.last_mut() {
            bytes.extend(request.bytes());
        }
        self.methods.push(request.method);
        self
    }

    /// The body, once the server asks for it.
    pub fn once_asked(mut self, body: impl AsRef<[u8]>) -> Self {
        self.steps.push(Step::OnceAsked(body.as_ref().to_vec()));
        self
    }

    /// More bytes, in a write of their own.
    pub fn then(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.steps.push(Step::Send(bytes.as_ref().to_vec()));
        self
    }

    pub fn half_closed(mut self) -> Self {
        self.steps.push(Step::HalfClose);
        self
    }

    pub fn blindly(mut self) -> Self {
        for step in &mut self.steps {
            if let Step::Send(bytes) = step {
                *step = Step::SendBlindly(std::mem::take(bytes));
            }
        }
        self
    }

    /// Whether its client sends before it reads.
    pub fn is_blind(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::SendBlindly(_)))
    }

    /// As many requests as this are sent in all.
    pub fn methods(self, methods: &[&'static str]) -> Self {
        Self { methods: methods.to_vec(), ..self }
    }

    /// A topic that exists on both sides beforehand.
    pub fn given(mut self, topic: &'static str) -> Self {
        self.given.push(topic);
        self
    }

    pub fn compared(self, compared: Compared) -> Self {
        Self { compared, ..self }
    }

    /// Declares a difference: its row in `docs/differences.md`, and what each side does.
    pub fn differs(self, key: &'static str, nsqd: &'static str, gateway: &'static str) -> Self {
        Self { differs: Some(Differs { key, nsqd, gateway }), ..self }
    }
}
