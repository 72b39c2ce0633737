use proptest::prelude::*;

use super::*;

fn read(text: &str) -> Value {
    parse(text.as_bytes()).unwrap()
}

#[test]
fn a_text_of_nothing_but_values_is_refused_before_it_takes_much() {
    let text = format!("[{}0]", "0,".repeat(2_000_000));
    let error = parse(text.as_bytes()).unwrap_err();
    assert_eq!((error.problem, error.position), (Problem::TooMany, 1_999_999));
}

#[test]
fn topic_stats_202() {
    let stats = read(
        r#"{"offsetTable":{{"brokerName":"m5-a","queueId":0,"topic":"rv_off"}:{"lastUpdateTimestamp":1,"maxOffset":5,
        "minOffset":0},{"brokerName":"m5-a","queueId":1,"topic":"rv_off"}:{"lastUpdateTimestamp":0,"maxOffset":7,
        "minOffset":2}},"topicPutTps":0.0}"#,
    );
    let table = stats.get("offsetTable").unwrap().entries();
    let ends = |(queue, range): &(Value, Value)| {
        assert_eq!(queue.get("brokerName").unwrap().as_str(), Some("m5-a"));
        [queue.get("queueId"), range.get("minOffset"), range.get("maxOffset")]
            .map(|n| n.unwrap().as_i64().unwrap())
    };
    assert_eq!(table.iter().map(ends).collect::<Vec<_>>(), [[0, 0, 5], [1, 2, 7]]);
    assert_eq!(stats.get("topicPutTps").unwrap().as_f64(), Some(0.0));
}

#[test]
fn consume_stats_208_of_both_lines() {
    let newer = read(
        r#"{"consumeTps":0.0,"offsetTable":{{"brokerName":"a","queueId":3,"topic":"t"}:
        {"brokerOffset":5,"consumerOffset":2,"lastTimestamp":9,"pullOffset":2}}}"#,
    );
    let older = read(
        r#"{"consumeTps":0.0,"offsetTable":{{"brokerName":"a","queueId":3,"topic":"t"}:
        {"brokerOffset":5,"consumerOffset":2,"lastTimestamp":9}}}"#,
    );
    for stats in [newer, older] {
        let (queue, offsets) = &stats.get("offsetTable").unwrap().entries()[0];
        assert_eq!(queue.get("queueId").unwrap().as_i64(), Some(3));
        assert_eq!(offsets.get("consumerOffset").unwrap().as_i64(), Some(2));
    }
}

#[test]
fn routes_105_of_both_styles() {
    for key in ["0", "\"0\""] {
        let route = read(&format!(
            r#"{{"brokerDatas":[{{"brokerAddrs":{{{key}:"127.0.0.1:19911"}},"brokerName":"a","cluster":"c",
            "enableActingMaster":false}}],"filterServerTable":{{}},"queueDatas":[{{"brokerName":"a","perm":6}}]}}"#
        ));
        let broker = &route.get("brokerDatas").unwrap().items()[0];
        let (id, address) = &broker.get("brokerAddrs").unwrap().entries()[0];
        assert_eq!((id.as_i64(), address.as_str()), (Some(0), Some("127.0.0.1:19911")));
        assert_eq!(broker.get("enableActingMaster").unwrap().as_bool(), Some(false));
        assert!(route.get("filterServerTable").unwrap().entries().is_empty());
    }
}

#[test]
fn cluster_106_and_reset_222() {
    let cluster = read(
        r#"{"brokerAddrTable":{"a":{"brokerAddrs":{0:"127.0.0.1:1",1:"127.0.0.1:2"},"brokerName":"a"}},
        "clusterAddrTable":{"c":["a"]}}"#,
    );
    let addresses = cluster.get("brokerAddrTable").unwrap().get("a").unwrap().get("brokerAddrs").unwrap();
    assert_eq!(addresses.entries()[1].0.as_i64(), Some(1));
    assert_eq!(cluster.get("clusterAddrTable").unwrap().get("c").unwrap().items()[0].as_str(), Some("a"));
    let reset = read(r#"{"offsetTable":{{"brokerName":"a","queueId":0,"topic":"t"}:0}}"#);
    assert_eq!(reset.get("offsetTable").unwrap().entries()[0].1.as_i64(), Some(0));
}

#[test]
fn standard_json_is_read_as_such() {
    let text =
        r#" {"s":"a\"\\\u00fc\n{:,}","n":-1.5e3,"big":9223372036854775807,"no":null,"a":[true,[],{}]} "#;
    let value = read(text);
    assert_eq!(value.get("s").unwrap().as_str(), Some("a\"\\ü\n{:,}"));
    assert_eq!(value.get("n").unwrap().as_f64(), Some(-1_500.0));
    assert_eq!(value.get("big").unwrap().as_i64(), Some(i64::MAX));
    assert_eq!(value.get("no"), Some(&Value::Null));
    assert_eq!(value.get("a").unwrap().items().len(), 3);
    assert_eq!(read(r#"{"a":1,"a":2}"#).get("a").unwrap().as_i64(), Some(2));
}

#[test]
fn what_is_broken_is_named_with_its_place() {
    let error =
        |text: &str| parse(text.as_bytes()).map_err(|Error { position, problem }| (position, problem));
    let expected = |position, what| Err((position, Problem::Expected(what)));
    assert_eq!(error(""), expected(0, "a value"));
    assert_eq!(error("{0}"), expected(2, "':'"));
    assert_eq!(error("{0:1,}"), expected(5, "a value"));
    assert_eq!(error("[1 2]"), expected(3, "',' or ']'"));
    assert_eq!(error("{0:1 2}"), expected(5, "',' or '}'"));
    assert_eq!(error("1 1"), expected(2, "the end"));
    assert_eq!(error("nul"), expected(0, "a value"));
    assert_eq!(error(r#""\x""#), Err((0, Problem::BadString)));
    assert_eq!(error(r#""open\""#), Err((0, Problem::BadString)));
    assert_eq!(error("-+1"), Err((0, Problem::BadNumber)));
    assert_eq!(parse(b"\"\xFF\"").unwrap_err().problem, Problem::BadString);
}

#[test]
fn nesting_is_bounded_in_keys_and_values() {
    let nested = |depth: usize| ["[".repeat(depth), "]".repeat(depth)].concat();
    assert!(parse(nested(MAX_DEPTH).as_bytes()).is_ok());
    let too_deep = parse(nested(MAX_DEPTH + 1).as_bytes()).unwrap_err();
    assert_eq!(too_deep, Error { position: MAX_DEPTH, problem: Problem::TooDeep });
    assert_eq!(parse("{".repeat(1_000_000).as_bytes()).unwrap_err().problem, Problem::TooDeep);
}

fn printed(value: &Value) -> String {
    let list = |parts: Vec<String>| parts.join(",");
    match value {
        Value::Null => "null".into(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => serde_json::to_string(text).unwrap(),
        Value::Array(items) => format!("[{}]", list(items.iter().map(printed).collect())),
        Value::Object(entries) => {
            let entry = |(key, value): &(Value, Value)| format!("{}:{}", printed(key), printed(value));
            format!("{{{}}}", list(entries.iter().map(entry).collect()))
        }
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(|number| Value::Number(number.into())),
        any::<String>().prop_map(Value::String),
    ];
    leaf.prop_recursive(4, 20, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            proptest::collection::vec((inner.clone(), inner), 0..4).prop_map(Value::Object),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_printed_is_read(value in any_value()) {
        prop_assert_eq!(parse(printed(&value).as_bytes()), Ok(value));
    }

    #[test]
    fn any_text_is_a_value_or_an_error(text in r#"[{}\[\]",:0-9a\\ tnfe.-]{0,40}"#, bytes: Vec<u8>) {
        let _ = parse(text.as_bytes());
        let _ = parse(&bytes);
    }
}
