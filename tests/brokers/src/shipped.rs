//! Brokers as RocketMQ ships them, to be measured: tests want little memory and small files.

use std::fs;

use crate::Settings;

/// The machine's memory; 0 where it does not tell.
pub fn memory_gib() -> f64 {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next());
    kib.and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0 / 1024.0
}

/// The heap of each of so many brokers: what RocketMQ gives one, where the machine has three times as much for it.
pub fn heap_mib(brokers: usize) -> u64 {
    (memory_gib() * 1024.0 / 3.0 / brokers as f64).clamp(512.0, 8192.0) as u64
}

/// Java as `bin/runbroker.sh` starts it, with such a heap; files as large as RocketMQ makes them.
pub fn settings(heap_mib: u64) -> Settings {
    let sizes = [format!("-Xms{heap_mib}m"), format!("-Xmx{heap_mib}m")];
    let flags = [
        "-XX:-UseSerialGC",
        "-XX:+UseG1GC",
        "-XX:G1HeapRegionSize=16m",
        "-XX:G1ReservePercent=25",
        "-XX:InitiatingHeapOccupancyPercent=30",
        "-XX:SoftRefLRUPolicyMSPerMB=0",
        "-XX:-OmitStackTraceInFastThrow",
        "-XX:+AlwaysPreTouch",
        "-XX:MaxDirectMemorySize=15g",
    ];
    let java = flags.into_iter().chain(sizes.iter().map(String::as_str)).fold(Settings::new(), Settings::jvm);
    java.conf("mappedFileSizeCommitLog", 1 << 30)
        .conf("mappedFileSizeConsumeQueue", 300_000 * 20)
        .conf("maxHashSlotNum", 5_000_000)
        .conf("maxIndexNum", 5_000_000 * 4)
}
