//! What lies in files, and what this program once wrote itself.

use nsqbridge::{audit::record::Record, fuzzing};

pub fn configuration(data: &[u8]) {
    if let Ok(text) = str::from_utf8(data) {
        let _ = fuzzing::configuration(text);
    }
}

pub fn undrained(data: &[u8]) {
    let Some(written) = fuzzing::undrained(data) else { return };
    let again = fuzzing::undrained(&written).expect("what was written can be read");
    let meaning = |record: &[u8]| serde_json::from_slice::<serde_json::Value>(record).ok();
    assert_eq!(meaning(&written), meaning(&again), "and means the same");
}

pub fn spool(data: &[u8]) {
    let (messages, damaged) = fuzzing::spool(data);
    assert_eq!(messages + damaged, data.len(), "nothing is passed over");
    if let Some(written) = fuzzing::spooled(data) {
        assert_eq!(written, data, "what is read is what was written");
    }
}

pub fn audit_records(data: &[u8]) {
    let _ = Record::decode(data);
    // What only lacks its checksum is a record as well.
    let whole = [data, &crc32fast::hash(data).to_be_bytes()].concat();
    if let Ok(record) = Record::decode(&whole) {
        assert_eq!(Record::decode(&record.encode()).as_ref(), Ok(&record), "what was written can be read");
    }
}
