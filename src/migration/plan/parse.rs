//! From TOML to a checked plan, or to everything wrong with the file.

use std::{collections::BTreeMap, path::PathBuf, str::FromStr, time::Duration};

use toml::{Table, Value};

use super::{Audit, ChannelPlan, Deferred, Gates, Goal, Plan, Policies, Tolerance, fields};
use crate::{
    mapping::{Names, RenameError, check_group},
    nsq::names::{ChannelName, TopicName},
    problems::{Problem, unknown},
};

/// The only format there is.
const FORMAT: i64 = 1;

const GOALS: &[(&str, Goal)] = &[
    ("cutover", Goal::Cutover),
    ("rollback", Goal::Rollback),
    ("rollback-broken", Goal::RollbackBroken),
    ("keep", Goal::Keep),
];
const TOLERANCES: &[(&str, Tolerance)] = &[("refuse", Tolerance::Refuse), ("warn", Tolerance::Warn)];
const DEFERRED: &[(&str, Deferred)] = &[("wait", Deferred::Wait), ("abort", Deferred::Abort)];
const AUDITS: &[(&str, Audit)] = &[("clean", Audit::Clean), ("any", Audit::Any)];

/// A table of the file, and what has been found wrong so far.
struct Section<'a> {
    /// As the file writes it, with a dot behind; empty for the file itself.
    prefix: String,
    content: &'a Table,
}

#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, key: String, reason: impl Into<String>) {
        self.0.push(Problem { key, reason: reason.into() });
    }

    /// A table within a section; empty when there is none. `kind` is its name in [`fields::SECTIONS`].
    fn section<'a>(&mut self, within: &Section<'a>, name: &str, kind: &str) -> Section<'a> {
        let section = self.tables(within, name);
        self.only(&section, fields::of(kind));
        section
    }

    /// A table that holds tables by name.
    fn tables<'a>(&mut self, within: &Section<'a>, name: &str) -> Section<'a> {
        static EMPTY: std::sync::LazyLock<Table> = std::sync::LazyLock::new(Table::new);
        let key = format!("{}{}", within.prefix, quoted(name));
        let content = match within.content.get(name) {
            Some(Value::Table(table)) => table,
            Some(value) => {
                self.add(key.clone(), format!("= {value}: is a section, write [{key}]"));
                &EMPTY
            }
            None => &EMPTY,
        };
        Section { prefix: format!("{key}."), content }
    }

    /// Takes note of what the section should not have.
    fn only(&mut self, section: &Section<'_>, known: &[&str]) {
        for name in section.content.keys().filter(|name| !known.contains(&name.as_str())) {
            let key = format!("{}{}", section.prefix, quoted(name));
            self.add(key, unknown("field of a plan", name, known.iter().copied()));
        }
    }

    /// A field's value, or why it cannot be taken; `None` where it is missing or wrong.
    fn field<T>(
        &mut self,
        section: &Section<'_>,
        name: &str,
        parse: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Option<T> {
        let value = section.content.get(name)?;
        parse(value)
            .map_err(|reason| self.add(format!("{}{name}", section.prefix), format!("= {value}: {reason}")))
            .ok()
    }
}

fn quoted(name: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    if !name.is_empty() && name.bytes().all(bare) { name.to_owned() } else { format!("{name:?}") }
}

/// The plan, or everything wrong with it.
pub(super) fn plan(file: &Table) -> Result<Plan, Vec<Problem>> {
    let mut problems = Problems::default();
    let whole = Section { prefix: String::new(), content: file };
    problems.only(&whole, fields::of(""));
    match file.get("format") {
        Some(Value::Integer(FORMAT)) => {}
        Some(other) => problems.add("format".to_owned(), format!("= {other}: this program reads {FORMAT}")),
        None => problems.add("format".to_owned(), format!("is missing: write format = {FORMAT}")),
    }
    let rocketmq = problems.section(&whole, "rocketmq", "rocketmq");
    let nsq = problems.section(&whole, "nsq", "nsq");
    let naming = problems.section(&whole, "names", "names");
    let name_servers = problems.field(&rocketmq, "namesrv", several).unwrap_or_default();
    let nsqlookupds = problems.field(&nsq, "lookupd_http_address", several).unwrap_or_default();
    let nsqds = problems.field(&nsq, "nsqd_http_address", several).unwrap_or_default();
    if !rocketmq.content.contains_key("namesrv") {
        problems.add("rocketmq.namesrv".to_owned(), "is missing: the name servers' HOST:PORT");
    }
    if nsq.content.is_empty() {
        problems.add("nsq".to_owned(), "is missing: lookupd_http_address, nsqd_http_address or both");
    }
    let group_prefix = problems.field(&naming, "group_prefix", prefix);
    let group_prefix = group_prefix.unwrap_or_else(|| "nsqbridge-transfer".to_owned());
    let gates = gates(&mut problems, &whole);
    let policies = policies(&mut problems, &whole);
    if policies.quiet >= gates.max_pause {
        let pause = humantime::format_duration(gates.max_pause);
        let says =
            format!("must be shorter than gates.max_pause ({pause}), or no channel is drained in time");
        problems.add("policies.quiet".to_owned(), &says);
    }
    let (names, topics) = topics(&mut problems, &whole, &group_prefix);
    if problems.0.is_empty() {
        Ok(Plan {
            file: PathBuf::new(),
            name_servers,
            nsqlookupds,
            nsqds,
            group_prefix,
            names,
            gates,
            policies,
            topics,
        })
    } else {
        Err(problems.0)
    }
}

fn gates(problems: &mut Problems, whole: &Section<'_>) -> Gates {
    let section = problems.section(whole, "gates", "gates");
    let default = Gates::default();
    Gates {
        lag_messages: problems.field(&section, "lag_messages", number).unwrap_or(default.lag_messages),
        lag_age: problems.field(&section, "lag_age", duration).unwrap_or(default.lag_age),
        audit: problems.field(&section, "audit", one_of(AUDITS)).unwrap_or(default.audit),
        time_in_stage: problems.field(&section, "time_in_stage", duration).unwrap_or(default.time_in_stage),
        max_pause: problems.field(&section, "max_pause", duration).unwrap_or(default.max_pause),
        retention: problems.field(&section, "retention", duration).unwrap_or(default.retention),
    }
}

fn policies(problems: &mut Problems, whole: &Section<'_>) -> Policies {
    let section = problems.section(whole, "policies", "policies");
    let default = Policies::default();
    let mut tolerance = |name, default| problems.field(&section, name, one_of(TOLERANCES)).unwrap_or(default);
    let bypass = tolerance("bypass", default.bypass);
    let ephemeral_channels = tolerance("ephemeral_channels", default.ephemeral_channels);
    let async_flush = tolerance("async_flush", default.async_flush);
    Policies {
        deferred: problems.field(&section, "deferred", one_of(DEFERRED)).unwrap_or(default.deferred),
        bypass,
        ephemeral_channels,
        async_flush,
        quiet: problems.field(&section, "quiet", duration).unwrap_or(default.quiet),
    }
}

type Topics = BTreeMap<TopicName, BTreeMap<ChannelName, ChannelPlan>>;

fn topics(problems: &mut Problems, whole: &Section<'_>, group_prefix: &str) -> (Names, Topics) {
    let section = problems.tables(whole, "topics");
    if section.content.is_empty() {
        problems.add("topics".to_owned(), "is missing: write [topics.NAME.channels.NAME] for each channel");
    }
    let mut renames = BTreeMap::new();
    let mut found = Vec::new();
    for name in section.content.keys() {
        let content = problems.section(&section, name, "topics.*");
        let Some(topic) = parsed::<TopicName>(problems, &content.prefix, name) else { continue };
        if let Some(to) = problems.field(&content, "rename", text) {
            renames.insert(topic.clone(), to);
        }
        found.push((topic, content));
    }
    let names = Names::new(renames).unwrap_or_else(|errors| {
        for error in errors {
            let (RenameError::Illegal { topic, .. } | RenameError::Taken { topic, .. }) = &error;
            problems.add(format!("topics.{}.rename", quoted(topic.as_str())), format!(": {error}"));
        }
        Names::default()
    });
    let mut topics = Topics::new();
    for (topic, content) in found {
        let channels = problems.tables(&content, "channels");
        let mut planned = BTreeMap::new();
        for name in channels.content.keys() {
            let section = problems.section(&channels, name, "topics.*.channels.*");
            let Some(channel) = parsed::<ChannelName>(problems, &section.prefix, name) else { continue };
            let own_group = names.channel_group(&topic, &channel);
            let plan = ChannelPlan {
                group: problems.field(&section, "group", group).unwrap_or(own_group),
                goal: problems.field(&section, "goal", one_of(GOALS)).unwrap_or(Goal::Cutover),
                phase: problems.field(&section, "phase", phase).unwrap_or(1),
            };
            planned.insert(channel, plan);
        }
        topics.insert(topic, planned);
    }
    groups_apart(problems, &topics, group_prefix);
    (names, topics)
}

/// Two channels in one group would each get a part; the relay's own group would get the relay's share.
fn groups_apart(problems: &mut Problems, topics: &Topics, group_prefix: &str) {
    let mut taken: BTreeMap<&str, String> = BTreeMap::new();
    for (topic, channels) in topics {
        for (channel, planned) in channels {
            let key =
                format!("topics.{}.channels.{}.group", quoted(topic.as_str()), quoted(channel.as_str()));
            let group = planned.group.as_str();
            if group.strip_prefix(group_prefix).is_some_and(|rest| rest.starts_with('-')) {
                problems.add(key, format!("= {group:?}: groups that begin so are the relays'"));
            } else if let Some(other) = taken.get(group) {
                problems.add(key, format!("= {group:?}: {other} has it, and each would get a part"));
            } else {
                taken.insert(group, format!("{topic}/{channel}"));
            }
        }
    }
}

fn parsed<T: FromStr<Err: ToString>>(problems: &mut Problems, prefix: &str, name: &str) -> Option<T> {
    let key = prefix.trim_end_matches('.').to_owned();
    name.parse().map_err(|error: T::Err| problems.add(key, format!(": {}", error.to_string()))).ok()
}

fn text(value: &Value) -> Result<String, String> {
    value.as_str().map(str::to_owned).ok_or_else(|| "a text is accepted".to_owned())
}

fn group(value: &Value) -> Result<String, String> {
    let group = text(value)?;
    check_group(&group).map(|()| group).map_err(|error| error.to_string())
}

fn prefix(value: &Value) -> Result<String, String> {
    group(value).map_err(|_| "the relays' --group-prefix is accepted".to_owned())
}

/// A list of addresses, or one text with a semicolon between them.
fn several<T: FromStr<Err: ToString>>(value: &Value) -> Result<Vec<T>, String> {
    let texts: Option<Vec<&str>> = match value {
        Value::String(text) => Some(text.split(';').collect()),
        Value::Array(values) => values.iter().map(Value::as_str).collect(),
        _ => None,
    };
    let texts = texts.ok_or("a text or a list of texts is accepted")?;
    if texts.is_empty() {
        return Err("at least one is needed; leave the field out for none".to_owned());
    }
    texts.iter().map(|text| text.parse().map_err(|error: T::Err| error.to_string())).collect()
}

fn number(value: &Value) -> Result<u64, String> {
    let number = value.as_integer().and_then(|number| u64::try_from(number).ok());
    number.ok_or_else(|| "a number from 0 is accepted".to_owned())
}

fn phase(value: &Value) -> Result<u32, String> {
    let number = value.as_integer().and_then(|number| u32::try_from(number).ok());
    number.filter(|number| *number > 0).ok_or_else(|| "a number from 1 is accepted".to_owned())
}

fn duration(value: &Value) -> Result<Duration, String> {
    let parsed = value.as_str().and_then(|text| humantime::parse_duration(text).ok());
    parsed.ok_or_else(|| "a duration such as \"10s\" or \"1h 30m\" is accepted".to_owned())
}

fn one_of<T: Copy>(words: &'static [(&'static str, T)]) -> impl FnOnce(&Value) -> Result<T, String> {
    move |value| {
        let word = words.iter().find(|(word, _)| value.as_str() == Some(word));
        word.map(|(_, meaning)| *meaning).ok_or_else(|| {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            format!("one of {} is accepted", known.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Plan, Vec<String>> {
        let problems = |problems: Vec<Problem>| {
            problems.into_iter().map(|problem| format!("{} {}", problem.key, problem.reason)).collect()
        };
        plan(&text.parse().unwrap()).map_err(problems)
    }

    const CLUSTERS: &str = "format = 1\nrocketmq.namesrv = 'rmq-1:9876;rmq-2:9876'\nnsq.lookupd_http_address = ['lookup-1:4161']\n";

    #[test]
    fn a_short_plan_means_the_defaults() {
        let plan = read(&format!("{CLUSTERS}[topics.'orders.v1'.channels.billing]")).unwrap();
        assert_eq!((plan.name_servers.len(), plan.nsqlookupds.len(), plan.nsqds.len()), (2, 1, 0));
        assert_eq!((plan.gates.clone(), plan.policies.clone()), (Gates::default(), Policies::default()));
        let [(topic, channel, planned)] = plan.channels()[..] else { panic!("{plan:?}") };
        assert_eq!((topic.as_str(), channel.as_str()), ("orders.v1", "billing"));
        let expected = ChannelPlan { group: "orders|v1%%billing".to_owned(), goal: Goal::Cutover, phase: 1 };
        assert_eq!(planned, &expected, "the group the gateway creates for the channel");
    }

    #[test]
    fn a_renamed_topic_gives_its_groups_their_names_and_phases_give_the_order() {
        let text = "[topics.b]\nrename = 'B'\n[topics.b.channels.x]\nphase = 2\n[topics.b.channels.y]\n\
                    [topics.a.channels.z]\nphase = 3\ngroup = 'own'\ngoal = 'rollback'";
        let plan = read(&format!("{CLUSTERS}{text}")).unwrap();
        let order: Vec<_> = plan.channels().iter().map(|(_, _, planned)| planned.group.clone()).collect();
        assert_eq!(order, ["B%%y", "B%%x", "own"]);
    }

    #[test]
    fn everything_wrong_is_told_at_once_with_what_is_accepted() {
        let text = "
            format = 2
            fromat = 1
            [rocketmq]
            namesrv = 'nohost'
            [nsq]
            lookupd_http_adress = 'l:1'
            [gates]
            lag_messages = -1
            max_pause = 10
            audit = 'dirty'
            [policies]
            deferred = 'drop'
            colour = 'blue'
            [topics.'a b'.channels.c]
            [topics.a]
            rename = 'TBW102'
            [topics.a.channels.c]
            goal = 'away'
            phase = 0
            group = 'a.b'
            [topics.a.channels.d]
            group = 'shared'
            [topics.a.channels.e]
            group = 'shared'
            [topics.a.channels.f]
            group = 'nsqbridge-transfer-a'
            [topics.g]
            channels = 1";
        let problems = read(text).unwrap_err();
        for says in [
            "format = 2: this program reads 1",
            "fromat is no field of a plan; did you mean format?",
            "rocketmq.namesrv = \"nohost\": ",
            "nsq.lookupd_http_adress is no field of a plan; did you mean lookupd_http_address?",
            "gates.lag_messages = -1: a number from 0 is accepted",
            "gates.max_pause = 10: a duration such as",
            "gates.audit = \"dirty\": one of clean, any is accepted",
            "policies.deferred = \"drop\": one of wait, abort is accepted",
            "policies.colour is no field of a plan",
            "topics.\"a b\" : \"a b\" is not an NSQ name",
            "topics.a.rename : a cannot become \"TBW102\"",
            "topics.a.channels.c.goal = \"away\": one of cutover, rollback, rollback-broken, keep is accepted",
            "topics.a.channels.c.phase = 0: a number from 1",
            "topics.a.channels.c.group = \"a.b\": ",
            "topics.a.channels.e.group = \"shared\": a/d has it",
            "topics.a.channels.f.group = \"nsqbridge-transfer-a\": groups that begin so are the relays'",
            "topics.g.channels = 1: is a section, write [topics.g.channels]",
        ] {
            assert!(
                problems.iter().any(|problem| problem.contains(says)),
                "{says:?} is not in {problems:#?}"
            );
        }
        assert_eq!(problems.len(), 17, "{problems:#?}");
    }

    #[test]
    fn a_channel_must_have_time_to_be_quiet() {
        let of = |more: &str| read(&format!("{CLUSTERS}{more}\n[topics.a.channels.z]"));
        assert!(of("policies.quiet = '9s'").is_ok());
        let problems = of("policies.quiet = '1m'\ngates.max_pause = '1m'").unwrap_err();
        let says =
            "policies.quiet must be shorter than gates.max_pause (1m), or no channel is drained in time";
        assert_eq!(problems, [says]);
    }

    #[test]
    fn what_is_missing_is_told() {
        let problems = read("").unwrap_err();
        for says in
            ["format is missing", "rocketmq.namesrv is missing", "nsq is missing", "topics is missing"]
        {
            assert!(
                problems.iter().any(|problem| problem.starts_with(says)),
                "{says:?} is not in {problems:#?}"
            );
        }
        assert_eq!(problems.len(), 4, "{problems:#?}");
    }
}
