//! Signs requests for brokers that ask who is there (ACL 1 of RocketMQ 4, ACL 2 of RocketMQ 5).
//!
//! A signature covers every header field and the body, so signing is the last thing done to a request.
//!
//! Source: `AclClientRPCHook`, `AclUtils`; the exception for [`UNIQUE_KEY_QUERY`] was seen on running
//! brokers.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

const ACCESS_KEY: &str = "AccessKey";
const SECURITY_TOKEN: &str = "SecurityToken";
const SIGNATURE: &str = "Signature";

/// The field that turns a search by key into a search by unique key.
pub const UNIQUE_KEY_QUERY: &str = "_UNIQUE_KEY_QUERY";

/// Who this client is to the brokers. Its `Debug` shows neither secret nor token.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The account's name, sent in the clear.
    pub access_key: String,
    /// What signatures are made with; never sent.
    pub secret_key: String,
    /// A temporary token, sent in the clear.
    pub security_token: Option<String>,
}

impl Credentials {
    /// Adds the account's fields and the signature to a request's fields `ext`, replacing an earlier
    /// signature.
    ///
    /// `exclude_unique_key_query` leaves [`UNIQUE_KEY_QUERY`] out of the signed text, though not out of the
    /// request: RocketMQ 4.9 takes that field away before it checks, 5.x does not, and either refuses the
    /// other's signature.
    pub fn sign(&self, ext: &mut BTreeMap<String, String>, body: &[u8], exclude_unique_key_query: bool) {
        ext.insert(ACCESS_KEY.to_owned(), self.access_key.clone());
        if let Some(token) = &self.security_token {
            ext.insert(SECURITY_TOKEN.to_owned(), token.clone());
        }
        let mut mac =
            Hmac::<Sha1>::new_from_slice(self.secret_key.as_bytes()).expect("HMAC takes keys of any length");
        for (name, value) in &*ext {
            if name != SIGNATURE && !(exclude_unique_key_query && name == UNIQUE_KEY_QUERY) {
                mac.update(value.as_bytes());
            }
        }
        mac.update(body);
        ext.insert(SIGNATURE.to_owned(), STANDARD.encode(mac.finalize().into_bytes()));
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials() -> Credentials {
        Credentials { access_key: "rmqadmin".into(), secret_key: "12345678".into(), security_token: None }
    }

    fn ext(fields: &[(&str, &str)]) -> BTreeMap<String, String> {
        fields.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    #[test]
    fn a_signature_that_running_brokers_accepted() {
        let mut ext = ext(&[("a", "1"), ("b", "2"), ("C", "3")]);
        credentials().sign(&mut ext, b"body", false);
        assert_eq!(ext[ACCESS_KEY], "rmqadmin");
        assert_eq!(ext[SIGNATURE], "lQ8VNGjltN/1BytvTZkYEbZLy4w=");
        credentials().sign(&mut ext, b"body", false);
        assert_eq!(ext[SIGNATURE], "lQ8VNGjltN/1BytvTZkYEbZLy4w=", "signing again changes nothing");
    }

    #[test]
    fn the_unique_key_query_can_be_left_out_of_the_signature_but_stays_in_the_request() {
        let signed = |fields: &[(&str, &str)], exclude| {
            let mut ext = ext(fields);
            credentials().sign(&mut ext, b"", exclude);
            ext
        };
        let with = [("key", "k"), (UNIQUE_KEY_QUERY, "true")];
        let (left_out, kept, without) =
            (signed(&with, true), signed(&with, false), signed(&with[..1], false));
        assert_eq!(left_out[UNIQUE_KEY_QUERY], "true");
        assert_eq!(left_out[SIGNATURE], without[SIGNATURE]);
        assert_ne!(kept[SIGNATURE], without[SIGNATURE]);
    }

    #[test]
    fn a_token_is_sent_and_signed() {
        let (mut with, mut without) = (ext(&[]), ext(&[]));
        Credentials { security_token: Some("token".into()), ..credentials() }.sign(&mut with, b"", false);
        credentials().sign(&mut without, b"", false);
        assert_eq!(with[SECURITY_TOKEN], "token");
        assert_ne!(with[SIGNATURE], without[SIGNATURE]);
    }

    #[test]
    fn debug_output_keeps_the_secrets() {
        let text = format!("{:?}", Credentials { security_token: Some("sesame".into()), ..credentials() });
        assert!(
            text.contains("rmqadmin") && !text.contains("12345678") && !text.contains("sesame"),
            "{text}"
        );
    }
}
