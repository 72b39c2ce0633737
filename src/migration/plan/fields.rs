//! The fields a plan can have: what `parse` reads, what else is refused, and what `migration-plans/README.md` explains.

/// Sections and their fields; `*` stands for any name.
pub const SECTIONS: &[(&str, &[&str])] = &[
    ("", &["format", "rocketmq", "nsq", "names", "gates", "policies", "topics"]),
    ("rocketmq", &["namesrv"]),
    ("nsq", &["lookupd_http_address", "nsqd_http_address"]),
    ("names", &["group_prefix"]),
    ("gates", &["lag_messages", "lag_age", "audit", "time_in_stage", "max_pause", "retention"]),
    ("policies", &["deferred", "bypass", "ephemeral_channels", "async_flush", "quiet"]),
    ("topics.*", &["rename", "channels"]),
    ("topics.*.channels.*", &["group", "goal", "phase"]),
];

/// The fields of a section.
pub(super) fn of(section: &str) -> &'static [&'static str] {
    SECTIONS.iter().find(|(name, _)| *name == section).map_or(&[], |(_, fields)| fields)
}

/// Every field that holds a value, with its section before it: `gates.max_pause`.
#[must_use]
pub fn fields() -> Vec<String> {
    let named = |section: &str, field: &str| match section {
        "" => field.to_owned(),
        section => format!("{section}.{field}"),
    };
    let holds_others = |name: &str| {
        SECTIONS.iter().any(|(section, _)| *section == name || section.starts_with(&format!("{name}.*")))
    };
    let all =
        SECTIONS.iter().flat_map(|(section, fields)| fields.iter().map(move |field| named(section, field)));
    all.filter(|name| !holds_others(name)).collect()
}
