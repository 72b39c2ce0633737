//! What a gateway says of itself while RocketMQ says odd things.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use nsqbridge::{
    gateway::publish::{PublishConfig, Publisher},
    rocketmq::codes::request,
};

use crate::{
    bridge::{SOON, eventually},
    scripted::{Peer, Reply, ok},
};

#[tokio::test]
async fn a_name_server_that_lists_no_broker_yet_takes_no_gateway_away_whose_broker_answers() {
    let listed = Arc::new(OnceLock::<String>::new());
    let empty_lists = Arc::new(AtomicUsize::new(0));
    let (told, counted) = (Arc::clone(&listed), Arc::clone(&empty_lists));
    let peer = Peer::start(1, move |nth, asked| {
        if asked.code != request::GET_BROKER_CLUSTER_INFO {
            return Reply::Silence;
        }
        let table = match told.get() {
            Some(address) if nth == 0 => serde_json::json!({"fake": {"brokerAddrs": {"0": address}}}),
            _ => {
                counted.fetch_add(1, Ordering::SeqCst);
                serde_json::json!({})
            }
        };
        Reply::Answer(ok(asked).body(serde_json::json!({"brokerAddrTable": table}).to_string()))
    })
    .await;
    listed.set(peer.address.clone()).unwrap();
    let publisher = Publisher::new(peer.cluster(), PublishConfig::default()).unwrap();
    eventually("the broker is seen", SOON, async || publisher.health().is_ok()).await;
    let forgotten = async || {
        assert_eq!(publisher.health(), Ok(()));
        empty_lists.load(Ordering::SeqCst) >= 3
    };
    eventually("the name server has listed nobody for a while", SOON, forgotten).await;
}
