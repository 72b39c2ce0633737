#!/usr/bin/env bash
# Replays the kept corpus of every fuzz target, and then makes up new input for it for FUZZ_SECONDS; 0 replays only.
#
#     fuzz/run.sh            every target
#     fuzz/run.sh query      this one
#
# What is found on the way and is no fault goes to target/fuzz/found/TARGET, and is begun with the next time. An input that
# shows a fault is named, and kept in fuzz/faults/: mend the fault, and move the input to fuzz/corpus/TARGET.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${FUZZ_SECONDS:-20}
jobs=${FUZZ_JOBS:-2}
host=$(rustc -vV | sed -n 's/^host: //p')
# What `cargo fuzz -s none` sets: coverage counters for libFuzzer. With --target, so that build scripts are left without.
counters="-Cpasses=sancov-module"
for flag in level=4 inline-8bit-counters pc-table; do counters+=" -Cllvm-args=-sanitizer-coverage-$flag"; done
command -v "${CXX:-c++}" >/dev/null || { echo "a C++ compiler (c++) is needed to build libFuzzer" >&2; exit 1; }
RUSTFLAGS="$counters" cargo build --quiet --manifest-path fuzz/Cargo.toml --target-dir target/fuzz --target "$host"

export seconds fuzzer="target/fuzz/$host/debug/nsqbridge-fuzz"
fuzz() {
    local target=$1 log=target/fuzz/log/$1 limit=(-max_total_time="$seconds")
    mkdir -p "target/fuzz/found/$target" target/fuzz/log fuzz/faults
    [ "$seconds" != 0 ] || limit=(-runs=0)
    if NSQBRIDGE_FUZZ_TARGET=$target "$fuzzer" "${limit[@]}" -timeout=10 -rss_limit_mb=1024 -max_len=65536 \
        -artifact_prefix="fuzz/faults/$target-" "target/fuzz/found/$target" "fuzz/corpus/$target" >"$log" 2>&1; then
        printf '%-20s %s\n' "$target" "$(grep '^Done' "$log" || echo "replayed $(ls "fuzz/corpus/$target" | wc -l) inputs")"
    else
        echo "$target FAILED; the input is in fuzz/faults/"
        tail -n 40 "$log"
        return 1
    fi
}
export -f fuzz
if [ $# -gt 0 ]; then printf '%s\n' "$@"; else "$fuzzer"; fi | xargs -P "$jobs" -I TARGET bash -c 'fuzz TARGET'
rmdir fuzz/faults 2>/dev/null || true
