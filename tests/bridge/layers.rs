//! Holds the layers and the absences `src/lib.rs` states.

use std::{
    collections::BTreeSet,
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

/// From the bottom up; a module imports from rows below its own only.
const LAYERS: &[&[&str]] = &[
    &["retry", "shutdown", "pem", "excerpt", "problems", "table"],
    &["observe"],
    &["nsq", "rocketmq"],
    &["mapping"],
    &["audit"],
    &["gateway", "transfer", "doctor"],
    &["intake"],
    &["migration"],
    &["cli"],
    &["settings", "config"],
    &["commands"],
    &["run"],
];

/// The modules at the top that a text names, however it imports them.
fn imported(text: &str) -> BTreeSet<String> {
    let code: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap_or("")).collect();
    let code = code.join("\n");
    let name = |text: &str| -> String {
        text.trim_start().chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
    };
    let mut found = BTreeSet::new();
    for (at, word) in code.match_indices("crate::") {
        let behind = &code[at + word.len()..];
        let Some(group) = behind.strip_prefix('{') else {
            found.insert(name(behind));
            continue;
        };
        let (mut depth, mut begins) = (0, true);
        for (at, letter) in group.char_indices() {
            if begins && depth == 0 && !letter.is_whitespace() && letter != '}' {
                found.insert(name(&group[at..]));
                begins = false;
            }
            match letter {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' => begins = depth == 0,
                _ => {}
            }
        }
    }
    found
}

#[test]
fn every_way_to_import_is_seen() {
    let text = "use crate::{\n    cli::{Args, Output},\n    nsq::names, // config::x\n    table,\n};\nuse crate::audit::Pace;\n\
                fn f() { crate::run::run() }\n// crate::gateway\n";
    assert_eq!(imported(text), ["audit", "cli", "nsq", "run", "table"].map(str::to_owned).into());
}

#[test]
fn layers_import_only_downward() {
    let layer = |module: &str| LAYERS.iter().position(|layer| layer.contains(&module));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (path, text) in sources("") {
        let module = path.strip_prefix(&root).unwrap().iter().next().unwrap().to_str().unwrap();
        let module = module.trim_end_matches(".rs");
        if ["lib", "main", "fuzzing"].contains(&module) {
            continue;
        }
        let own = layer(module).unwrap_or_else(|| panic!("{module} has no layer"));
        for other in imported(&text).iter().filter(|other| *other != module) {
            let below = layer(other).is_some_and(|other| other < own);
            // Macros of the crate stand under no module.
            let is_module = root.join(other).is_dir() || root.join(format!("{other}.rs")).is_file();
            assert!(below || !is_module, "{} imports {other}", path.display());
        }
    }
}

#[test]
fn only_the_intakes_guard_asks_the_relays() {
    for path in naming("intake", "transfer::") {
        assert!(path.ends_with("intake/guard.rs"), "{}", path.display());
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
