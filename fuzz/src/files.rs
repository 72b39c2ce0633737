//! What lies in files, and what this program once wrote itself.

use nsqbridge::fuzzing;

pub fn configuration(data: &[u8]) {
    if let Ok(text) = str::from_utf8(data) {
        let _ = fuzzing::configuration(text);
    }
}

pub fn undrained(data: &[u8]) {
    let Some(written) = fuzzing::undrained(data) else { return };
    let again = fuzzing::undrained(&written).expect("what was written can be read");
    let processes =
        |record: &[u8]| serde_json::from_slice::<serde_json::Value>(record).ok()?.get("processes").cloned();
    assert_eq!(processes(&written), processes(&again), "and means the same");
}
