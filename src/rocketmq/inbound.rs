//! Answers to what brokers ask of a client.
//!
//! A broker forwards the dashboard's and mqadmin's questions about a consumer to that consumer; left without an answer they time
//! out. What this client cannot do is refused by name, so the person asking sees why.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::sync::watch;
use tracing::debug;

use super::{
    codes::{request, response},
    command::Command,
    connection::Inbound,
};

/// What a consumer adds to its running information; it is given all that the asker wrote.
pub type Describe = Arc<dyn Fn(&BTreeMap<String, String>) -> BTreeMap<String, String> + Send + Sync>;

/// Who describes which group's consumer.
#[derive(Default)]
pub(super) struct Descriptions(Mutex<HashMap<String, Describe>>);

impl Descriptions {
    pub(super) fn set(&self, group: &str, describe: Option<Describe>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match describe {
            Some(describe) => drop(known.insert(group.to_owned(), describe)),
            None => drop(known.remove(group)),
        }
    }

    fn of(&self, asked: &Command) -> BTreeMap<String, String> {
        let Some(group) = asked.ext.get("consumerGroup") else { return BTreeMap::new() };
        let describe = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(group).cloned();
        describe.map(|describe| describe(&asked.ext)).unwrap_or_default()
    }
}

/// Answers in the name of `client_id`; a change of a group's members is passed on to `membership_changed`.
pub(super) fn answers(
    client_id: String,
    membership_changed: watch::Sender<u64>,
    descriptions: Arc<Descriptions>,
) -> Inbound {
    let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    Arc::new(move |asked| {
        if asked.code == request::NOTIFY_CONSUMER_IDS_CHANGED {
            membership_changed.send_modify(|changes| *changes += 1);
        }
        if asked.is_oneway() {
            return None;
        }
        Some(match asked.code {
            request::GET_CONSUMER_RUNNING_INFO => {
                let info = running_info(&client_id, started, descriptions.of(asked));
                Command::response_to(asked, response::SUCCESS, None).body(info)
            }
            request::GET_CONSUMER_STATUS_FROM_CLIENT => {
                Command::response_to(asked, response::SUCCESS, None).body(r#"{"messageQueueTable":{}}"#)
            }
            code => {
                debug!(code, "refused a broker's request");
                let remark = match code {
                    request::CONSUME_MESSAGE_DIRECTLY => "this consumer cannot be handed single messages",
                    request::RESET_CONSUMER_CLIENT_OFFSET => {
                        "this consumer keeps its own offsets; stop it first"
                    }
                    _ => "this client does not know the request",
                };
                Command::response_to(asked, response::REQUEST_CODE_NOT_SUPPORTED, Some(remark.to_owned()))
            }
        })
    })
}

/// `ConsumerRunningInfo`, the part that holds without a Java client behind it.
fn running_info(client_id: &str, started_ms: u128, described: BTreeMap<String, String>) -> String {
    let mut properties = described;
    for (name, value) in [
        ("PROP_CLIENT_VERSION", concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION"))),
        ("PROP_CONSUMER_START_TIMESTAMP", &*started_ms.to_string()),
        ("PROP_CONSUME_TYPE", "CONSUME_ACTIVELY"),
        ("PROP_CLIENT_ID", client_id),
    ] {
        properties.insert(name.to_owned(), value.to_owned());
    }
    serde_json::json!({
        "properties": properties,
        "subscriptionSet": [],
        "mqTable": {},
        "statusTable": {},
    })
    .to_string()
}
