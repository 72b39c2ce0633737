//! Writes requests byte by byte: a client library would refuse to write most of them.

/// A request, as text.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: &'static str,
    target: String,
    version: &'static str,
    headers: Vec<String>,
    body: Vec<u8>,
    has_host: bool,
    has_length: bool,
}

/// A request with `Host`, and without a body; POST and PUT say so with `Content-Length: 0`.
pub fn request(method: &'static str, target: impl Into<String>) -> Request {
    Request {
        method,
        target: target.into(),
        version: "1.1",
        headers: Vec::new(),
        body: Vec::new(),
        has_host: true,
        has_length: matches!(method, "POST" | "PUT"),
    }
}

pub fn get(target: impl Into<String>) -> Request {
    request("GET", target)
}

pub fn post(target: impl Into<String>) -> Request {
    request("POST", target)
}

impl Request {
    /// The body, and its length in `Content-Length`.
    pub fn body(self, body: impl AsRef<[u8]>) -> Self {
        Self { body: body.as_ref().to_vec(), has_length: true, ..self }
    }

    /// The body in chunks.
    pub fn chunks<C: AsRef<[u8]>>(self, chunks: impl IntoIterator<Item = C>) -> Self {
        self.chunked(encode_chunks(chunks))
    }

    /// The body as it is, said to be in chunks.
    pub fn chunked(self, body: impl AsRef<[u8]>) -> Self {
        self.header("Transfer-Encoding: chunked").raw(body)
    }

    /// The body as it is; no header tells of it.
    pub fn raw(self, body: impl AsRef<[u8]>) -> Self {
        Self { body: body.as_ref().to_vec(), has_length: false, ..self }
    }

    /// Only announces a body.
    pub fn announcing(self, bytes: usize) -> Self {
        self.header(format!("Content-Length: {bytes}")).raw("")
    }

    pub fn header(mut self, line: impl Into<String>) -> Self {
        self.headers.push(line.into());
        self
    }

    pub fn headers<L: Into<String>>(mut self, lines: impl IntoIterator<Item = L>) -> Self {
        self.headers.extend(lines.into_iter().map(Into::into));
        self
    }

    pub fn http(self, version: &'static str) -> Self {
        Self { version, ..self }
    }

    pub fn without_host(self) -> Self {
        Self { has_host: false, ..self }
    }

    /// As it goes over the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/{}\r\n", self.method, self.target, self.version);
        if self.has_host {
            head.push_str("Host: x\r\n");
        }
        for line in &self.headers {
            head.push_str(line);
            head.push_str("\r\n");
        }
        if self.has_length {
            head.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        head.push_str("\r\n");
        [head.as_bytes(), &self.body].concat()
    }
}

pub fn encode_chunks<C: AsRef<[u8]>>(chunks: impl IntoIterator<Item = C>) -> Vec<u8> {
    let mut encoded = Vec::new();
    for chunk in chunks {
        let chunk = chunk.as_ref();
        encoded.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        encoded.extend_from_slice(chunk);
        encoded.extend_from_slice(b"\r\n");
    }
    encoded.extend_from_slice(b"0\r\n\r\n");
    encoded
}
