//! Holds the layers and the absences `src/lib.rs` states.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn sources(under: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(under)];
    while let Some(path) = folders.pop() {
        if path.is_dir() {
            folders.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    assert!(!found.is_empty(), "nothing under src/{under}");
    found
}

/// The files under `src/UNDER` with a line that holds `word`, comments aside.
fn naming(under: &str, word: &str) -> Vec<PathBuf> {
    let names = |text: &str| text.lines().any(|line| line.split("//").next().unwrap_or("").contains(word));
    sources(under).into_iter().filter(|(_, text)| names(text)).map(|(path, _)| path).collect()
}

fn assert_absent(under: &str, words: &[&str]) {
    for word in words {
        assert_eq!(naming(under, word), Vec::<PathBuf>::new(), "{word:?} under src/{under}");
    }
}

#[test]
fn layers_import_only_downward() {
    assert_absent(
        "rocketmq",
        &["crate::nsq", "crate::mapping", "crate::audit", "crate::gateway", "crate::transfer", "crate::run"],
    );
    assert_absent(
        "nsq",
        &[
            "crate::rocketmq",
            "crate::mapping",
            "crate::audit",
            "crate::gateway",
            "crate::transfer",
            "crate::run",
        ],
    );
    for mapping in ["mapping.rs", "mapping"] {
        assert_absent(
            mapping,
            &[
                "crate::audit",
                "crate::gateway",
                "crate::transfer",
                "crate::run",
                "crate::cli",
                "crate::config",
            ],
        );
    }
    assert_absent(
        "audit",
        &["crate::gateway", "crate::transfer", "crate::doctor", "crate::run", "crate::cli", "crate::config"],
    );
    assert_absent("gateway", &["crate::transfer", "crate::run", "crate::cli", "crate::config"]);
    assert_absent(
        "doctor",
        &["crate::gateway", "crate::transfer", "crate::run", "crate::cli", "crate::config"],
    );
    assert_absent(
        "intake",
        &["crate::gateway", "crate::doctor", "crate::migration", "crate::run", "crate::cli", "crate::config"],
    );
    for path in naming("intake", "transfer::") {
        assert!(path.ends_with("intake/guard.rs"), "only it asks the relays: {}", path.display());
    }
    // It asks what the doctor finds and how running relays stand; it holds nothing that runs.
    assert_absent(
        "migration",
        &["crate::gateway", "crate::run", "crate::cli", "crate::config", "crate::questions"],
    );
    for role in ["gateway", "transfer", "doctor", "mapping.rs"] {
        assert_absent(role, &["crate::intake"]);
    }
    for role in ["gateway", "transfer", "doctor", "mapping.rs"] {
        assert_absent(role, &["crate::migration", "crate::migrating", "crate::moves"]);
    }
    assert_absent("transfer", &["crate::gateway", "crate::run", "crate::cli", "crate::config"]);
    for low in ["retry.rs", "shutdown.rs", "pem.rs", "excerpt.rs", "observe", "problems.rs", "table.rs"] {
        assert_absent(
            low,
            &[
                "crate::nsq",
                "crate::rocketmq",
                "crate::mapping",
                "crate::audit",
                "crate::gateway",
                "crate::transfer",
            ],
        );
    }
}

#[test]
fn the_rocketmq_client_holds_no_word_of_nsq_not_even_in_comments() {
    for (path, text) in sources("rocketmq") {
        assert!(!text.to_lowercase().contains("nsq"), "{}", path.display());
    }
}

#[test]
fn libraries_stay_where_they_belong() {
    let only_in = |word: &str, homes: &[&str]| {
        for path in naming("", word) {
            let at_home = homes.iter().any(|home| path.to_string_lossy().contains(home));
            assert!(at_home, "{word} in {}", path.display());
        }
    };
    only_in("hyper", &["src/gateway", "src/observe/admin.rs"]);
    only_in("reqwest", &["src/nsq"]);
    only_in("backoff::", &["src/retry.rs"]);
    only_in("toml::", &["src/config.rs", "src/problems.rs", "src/migration/plan"]);
    only_in(
        "prometheus_client",
        &["src/observe", "src/gateway", "src/transfer/metrics.rs", "src/intake/metrics.rs", "src/run.rs"],
    );
}

#[test]
fn no_channel_is_unbounded() {
    assert_absent("", &["unbounded"]);
}

#[test]
fn what_only_turns_bytes_into_values_has_no_async() {
    for file in [
        "command.rs",
        "record.rs",
        "properties.rs",
        "message.rs",
        "compression.rs",
        "loose_json.rs",
        "outcome.rs",
    ] {
        assert_absent(&format!("rocketmq/{file}"), &["async", "tokio"]);
    }
    assert_absent("nsq/mpub.rs", &["async", "tokio"]);
    assert_absent("nsq/query.rs", &["async", "tokio"]);
    assert_absent("nsq/frames.rs", &["async", "tokio"]);
    assert_absent("nsq/deliveries.rs", &["async", "tokio"]);
    assert_absent("mapping.rs", &["async", "tokio"]);
    assert_absent("mapping", &["async", "tokio"]);
    for file in ["sketch.rs", "record.rs", "entry.rs", "coverage.rs", "reconcile.rs", "report.rs"] {
        assert_absent(&format!("audit/{file}"), &["async", "tokio"]);
    }
    for judged in ["plan", "checks", "steps.rs", "scan/inventory.rs"] {
        assert_absent(&format!("migration/{judged}"), &["async fn", "async move", "await", "tokio"]);
    }
}
