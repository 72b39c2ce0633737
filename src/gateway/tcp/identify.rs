//! `IDENTIFY`: what a client says of itself, and what nsqd answers, without I/O.
//!
//! The gateway agrees to none of TLS, Snappy and Deflate: clients that ask for them go on in clear. Of what remains only the heartbeat
//! interval means anything to a producer; the rest is checked and told back as nsqd does it. JSON is read as Go reads it: names in any
//! case, `null` for what is not said, whole numbers only.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};

use super::replies::Fault;
use crate::{excerpt::excerpt, gateway::stats::VERSION};

/// How often a client is asked whether it is there, unless it wants otherwise.
pub(super) const HEARTBEAT_EVERY: Duration = Duration::from_secs(30);

/// What a connection's client has said of itself.
#[derive(Debug)]
pub(super) struct Client {
    /// Who it is, in its own words.
    pub(super) id: String,
    pub(super) hostname: String,
    pub(super) user_agent: String,
    /// `None` when it wants no heartbeats; then its silence is no sign of its end.
    pub(super) heartbeat: Option<Duration>,
    msg_timeout: i64,
    pub(super) sample_rate: i64,
    output_buffer_size: i64,
    output_buffer_timeout: i64,
}

impl Default for Client {
    /// nsqd's defaults.
    fn default() -> Self {
        Self {
            id: String::new(),
            hostname: String::new(),
            user_agent: String::new(),
            heartbeat: Some(HEARTBEAT_EVERY),
            msg_timeout: 60_000,
            sample_rate: 0,
            output_buffer_size: 16_384,
            output_buffer_timeout: 250,
        }
    }
}

/// In nsqd's order, and without blanks: some clients look for parts of it as they stand.
#[derive(Serialize)]
struct Negotiated {
    max_rdy_count: i64,
    version: &'static str,
    max_msg_timeout: i64,
    msg_timeout: i64,
    tls_v1: bool,
    deflate: bool,
    deflate_level: i64,
    max_deflate_level: i64,
    snappy: bool,
    sample_rate: i64,
    auth_required: bool,
    output_buffer_size: i64,
    output_buffer_timeout: i64,
}

const MAX_MSG_TIMEOUT: i64 = 900_000;

impl Client {
    /// Takes what the client says; the answer.
    pub(super) fn identify(&mut self, body: &[u8]) -> Result<Vec<u8>, Fault> {
        let undecodable = || Fault::new("E_BAD_BODY", "IDENTIFY failed to decode JSON body");
        let said = Said::read(body).ok_or_else(undecodable)?;
        let invalid = |what: &str, value: i64| {
            Err(Fault::new("E_BAD_BODY", format!("IDENTIFY {what} ({value}) is invalid")))
        };
        match said.heartbeat_interval {
            -1 => self.heartbeat = None,
            0 => {}
            millis @ 1_000..=60_000 => self.heartbeat = Some(Duration::from_millis(millis.unsigned_abs())),
            other => return invalid("heartbeat interval", other),
        }
        match said.output_buffer_timeout {
            -1 => self.output_buffer_timeout = 0,
            0 => {}
            millis @ 25..=30_000 => self.output_buffer_timeout = millis,
            other => return invalid("output buffer timeout", other),
        }
        match said.output_buffer_size {
            -1 => (self.output_buffer_size, self.output_buffer_timeout) = (1, 0),
            0 => {}
            bytes @ 64..=65_536 => self.output_buffer_size = bytes,
            other => return invalid("output buffer size", other),
        }
        match said.sample_rate {
            percent @ 0..=99 => self.sample_rate = percent,
            other => return invalid("sample rate", other),
        }
        match said.msg_timeout {
            0 => {}
            millis @ 1_000..=MAX_MSG_TIMEOUT => self.msg_timeout = millis,
            other => return invalid("msg timeout", other),
        }
        // Kept for as long as the connection lives.
        [self.id, self.hostname, self.user_agent] =
            [said.client_id, said.hostname, said.user_agent].map(|said| excerpt(&said));
        if !said.feature_negotiation {
            return Ok(b"OK".to_vec());
        }
        let negotiated = Negotiated {
            max_rdy_count: 2_500,
            version: VERSION,
            max_msg_timeout: MAX_MSG_TIMEOUT,
            msg_timeout: self.msg_timeout,
            tls_v1: false,
            deflate: false,
            deflate_level: 6,
            max_deflate_level: 6,
            snappy: false,
            sample_rate: self.sample_rate,
            auth_required: false,
            output_buffer_size: self.output_buffer_size,
            output_buffer_timeout: self.output_buffer_timeout,
        };
        serde_json::to_vec(&negotiated).map_err(|_| undecodable())
    }
}

struct Said {
    client_id: String,
    hostname: String,
    user_agent: String,
    feature_negotiation: bool,
    heartbeat_interval: i64,
    output_buffer_size: i64,
    output_buffer_timeout: i64,
    sample_rate: i64,
    msg_timeout: i64,
}

impl Said {
    /// `None` for what Go would not decode.
    fn read(body: &[u8]) -> Option<Self> {
        let fields = match serde_json::from_str(&String::from_utf8_lossy(body)).ok()? {
            Value::Object(fields) => fields,
            Value::Null => Map::new(),
            _ => return None,
        };
        // What is not looked at must be of its type as well.
        for name in ["tls_v1", "deflate", "snappy"] {
            flag(&fields, name)?;
        }
        number(&fields, "deflate_level")?;
        Some(Self {
            client_id: text(&fields, "client_id")?,
            hostname: text(&fields, "hostname")?,
            user_agent: text(&fields, "user_agent")?,
            feature_negotiation: flag(&fields, "feature_negotiation")?,
            heartbeat_interval: number(&fields, "heartbeat_interval")?,
            output_buffer_size: number(&fields, "output_buffer_size")?,
            output_buffer_timeout: number(&fields, "output_buffer_timeout")?,
            sample_rate: i32::try_from(number(&fields, "sample_rate")?).ok()?.into(),
            msg_timeout: number(&fields, "msg_timeout")?,
        })
    }
}

fn field<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let in_any_case =
        || fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
    fields.get(name).or_else(in_any_case).filter(|value| !value.is_null())
}

fn text(fields: &Map<String, Value>, name: &str) -> Option<String> {
    field(fields, name).map_or(Some(String::new()), |value| value.as_str().map(str::to_owned))
}

fn flag(fields: &Map<String, Value>, name: &str) -> Option<bool> {
    field(fields, name).map_or(Some(false), Value::as_bool)
}

fn number(fields: &Map<String, Value>, name: &str) -> Option<i64> {
    field(fields, name).map_or(Some(0), Value::as_i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &str) -> String {
        match Client::default().identify(body.as_bytes()) {
            Ok(answer) => String::from_utf8(answer).unwrap(),
            Err(Fault::Said(words)) => String::from_utf8(words).unwrap(),
            Err(Fault::Unsaid) => String::new(),
        }
    }

    #[test]
    fn the_answer_is_nsqds_byte_by_byte() {
        let expected = r#"{"max_rdy_count":2500,"version":"1.3.0","max_msg_timeout":900000,"msg_timeout":60000,"tls_v1":false,"deflate":false,"deflate_level":6,"max_deflate_level":6,"snappy":false,"sample_rate":0,"auth_required":false,"output_buffer_size":16384,"output_buffer_timeout":250}"#;
        assert_eq!(expected.len(), 264);
        assert_eq!(answer(r#"{"feature_negotiation":true,"short_id":"x","tls_v1":null}"#), expected);
        assert_eq!(answer(r#"{"Feature_Negotiation":true,"snappy":true}"#), expected);
        for plain in ["{}", "null", r#"{"client_id":"a"}"#] {
            assert_eq!(answer(plain), "OK");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_in_nsqds_order() {
        for (body, words) in [
            (r#"{"heartbeat_interval":999,"sample_rate":100}"#, "heartbeat interval (999) is invalid"),
            (r#"{"heartbeat_interval":60001}"#, "heartbeat interval (60001) is invalid"),
            (
                r#"{"output_buffer_timeout":24,"output_buffer_size":1}"#,
                "output buffer timeout (24) is invalid",
            ),
            (r#"{"output_buffer_size":63}"#, "output buffer size (63) is invalid"),
            (r#"{"sample_rate":100,"msg_timeout":1}"#, "sample rate (100) is invalid"),
            (r#"{"msg_timeout":900001}"#, "msg timeout (900001) is invalid"),
            ("[]", "failed to decode JSON body"),
            ("{} x", "failed to decode JSON body"),
            (r#"{"heartbeat_interval":1000.0}"#, "failed to decode JSON body"),
            (r#"{"heartbeat_interval":"1000"}"#, "failed to decode JSON body"),
            (r#"{"client_id":5}"#, "failed to decode JSON body"),
            (r#"{"sample_rate":4294967296}"#, "failed to decode JSON body"),
        ] {
            assert_eq!(answer(body), format!("E_BAD_BODY IDENTIFY {words}"), "{body}");
        }
    }

    #[test]
    fn heartbeats_are_as_the_client_wants_them() {
        let mut client = Client::default();
        let mut said = |millis: i64| {
            client.identify(format!(r#"{{"heartbeat_interval":{millis}}}"#).as_bytes()).unwrap();
            client.heartbeat
        };
        assert_eq!(said(1_000), Some(Duration::from_secs(1)));
        assert_eq!(said(0), Some(Duration::from_secs(1)), "as it was");
        assert_eq!(said(-1), None);
    }
}
