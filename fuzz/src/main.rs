//! Feeds every decoder that reads the network or a file with what libFuzzer makes up.
//!
//! One program for all targets, for linking is what costs; `NSQBRIDGE_FUZZ_TARGET` chooses one, and without it their names are
//! printed. Besides not to panic, every decoder promises not to take much more memory than it is given bytes.

#![no_main]

mod files;
mod nsq;
mod rocketmq;

use std::{io::Write as _, sync::LazyLock};

use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// One decoder, or several for the same bytes.
struct Target {
    name: &'static str,
    run: fn(&[u8]),
    /// Bytes it may take from the heap for each byte of input, copies made here included.
    factor: usize,
    /// Bytes it may take beside.
    fixed: usize,
}

const fn target(name: &'static str, run: fn(&[u8]), factor: usize, fixed: usize) -> Target {
    Target { name, run, factor, fixed }
}

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Every target. A corpus of the same name lies in `fuzz/corpus/`.
const TARGETS: &[Target] = &[
    target("query", nsq::query, 8, 4 * KIB),
    target("mpub_binary", nsq::mpub_binary, 32, 4 * KIB),
    target("mpub_text", nsq::mpub_text, 64, 4 * KIB),
    target("tcp_commands", nsq::tcp_commands, 192, 16 * KIB),
    target("nsqd_frames", nsq::frames, 32, 4 * KIB),
    target("nsqd_answers", nsq::nsqd_answers, 32, 4 * KIB),
    target("nsqlookupd_answers", nsq::nsqlookupd_answers, 32, 4 * KIB),
    target("frames", rocketmq::frames, 64, 512 * KIB),
    target("records", rocketmq::records, 16, rocketmq::RECORDS_FIXED),
    target("properties", rocketmq::properties, 64, 4 * KIB),
    target("compression", rocketmq::compression, 8, rocketmq::COMPRESSION_FIXED),
    target("loose_json", rocketmq::loose_json, 192, 4 * KIB),
    target("routes", rocketmq::routes, 64, 48 * MIB),
    target("group_answers", rocketmq::group_answers, 32, 4 * KIB),
    target("configuration", files::configuration, 512, 8 * MIB),
    target("undrained", files::undrained, 64, 16 * KIB),
    target("spool", files::spool, 16, 4 * KIB),
    target("audit_records", files::audit_records, 256, 64 * KIB),
];

static CHOSEN: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("NSQBRIDGE_FUZZ_TARGET").unwrap_or_default();
    TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| {
        let mut out = std::io::stdout();
        for target in TARGETS {
            let _ = writeln!(out, "{}", target.name);
        }
        std::process::exit(i32::from(!name.is_empty()));
    })
});

libfuzzer_sys::fuzz_target!(
    init: {
        LazyLock::force(&CHOSEN);
    },
    |data: &[u8]| {
        let Target { name, run, factor, fixed } = **CHOSEN;
        let before = ALLOCATOR.current_usage();
        ALLOCATOR.reset_peak_usage();
        run(data);
        let taken = ALLOCATOR.peak_usage().saturating_sub(before);
        let most = factor * data.len() + fixed;
        assert!(taken <= most, "{name} took {taken} bytes for {} of input, at most {most} are right", data.len());
    }
);
