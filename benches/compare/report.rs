//! Collects what each section measured, and keeps it when a later one fails.

use std::{
    any::Any,
    cell::RefCell,
    fmt::Write as _,
    fs,
    panic::AssertUnwindSafe,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use futures_util::FutureExt;
use nsqbridge_brokers::{Line, shipped, versions};

use crate::{
    Plan,
    parts::{Spent, spent},
    picture,
    table::{self, Curve, Row},
};

/// Longer than any section takes; one that hangs must not take the rest with it.
const SECTION_LIMIT: Duration = Duration::from_secs(480);

/// What was measured so far.
#[derive(Debug)]
pub struct Report {
    begun: Instant,
    spent_before: Spent,
    /// What the machine did before.
    load_before: String,
    rows: RefCell<Vec<Row>>,
    curves: RefCell<Vec<Curve>>,
    remarks: RefCell<Vec<String>>,
    /// Sections that did not come to their end, and why.
    failed: RefCell<Vec<(String, String)>>,
}

impl Report {
    pub fn begin() -> Self {
        Self {
            begun: Instant::now(),
            spent_before: spent(),
            load_before: first_field("/proc/loadavg"),
            rows: RefCell::default(),
            curves: RefCell::default(),
            remarks: RefCell::default(),
            failed: RefCell::default(),
        }
    }

    pub fn row(&self, row: Row) {
        println!("{}", table::line(&row));
        self.rows.borrow_mut().push(row);
    }

    pub fn curve(&self, curve: Curve) {
        println!("{}\n{}", curve.title, table::curve(&curve));
        self.curves.borrow_mut().push(curve);
    }

    pub fn remark(&self, remark: String) {
        println!("{remark}");
        self.remarks.borrow_mut().push(remark);
    }

    /// Measures a section; what it has reported when it fails stays.
    pub async fn section(&self, name: &str, measuring: impl Future<Output = ()>) {
        println!("\n== {name}, {:.0} s after the start", self.begun.elapsed().as_secs_f64());
        let limited = tokio::time::timeout(SECTION_LIMIT, Box::pin(measuring));
        let reason = match AssertUnwindSafe(limited).catch_unwind().await {
            Ok(Ok(())) => return,
            Ok(Err(_)) => format!("took longer than {} s", SECTION_LIMIT.as_secs()),
            Err(panic) => words(&*panic),
        };
        println!("FAILED: {reason}");
        self.failed.borrow_mut().push((name.to_owned(), reason));
    }

    pub fn failed(&self) -> bool {
        !self.failed.borrow().is_empty()
    }

    /// Writes the report and its picture into a folder; returns the report.
    pub fn write(&self, folder: &Path, plan: &Plan) -> std::io::Result<String> {
        let text = self.markdown(plan);
        fs::create_dir_all(folder)?;
        fs::write(folder.join("results.md"), &text)?;
        fs::write(folder.join("results.svg"), picture::svg(&self.rows.borrow()))?;
        Ok(text)
    }

    fn markdown(&self, plan: &Plan) -> String {
        let mut text =
            "# Results\n\nWritten by `make bench`. [README.md](README.md) says how to read it.\n\n"
                .to_owned();
        let minutes = self.begun.elapsed().as_secs_f64() / 60.0;
        let (rounds, seconds) = (plan.rounds, plan.lasting.as_secs());
        let load = &self.load_before;
        let _ = writeln!(text, "- {}: {minutes:.0} minutes", httpdate::fmt_http_date(SystemTime::now()));
        let _ = writeln!(text, "- {}", machine());
        let _ = writeln!(
            text,
            "- nsqbridge {}, RocketMQ {} (one broker with a heap of {} MiB, `ASYNC_FLUSH` unless a row says otherwise), NSQ {}, {}",
            env!("CARGO_PKG_VERSION"),
            Line::V5.version(),
            shipped::heap_mib(1),
            versions::NSQ,
            java(),
        );
        let _ = writeln!(
            text,
            "- rounds: {rounds}, of {seconds} s for each side; the machine's load before it began: {load}"
        );
        let [_, kept] = spent().since(self.spent_before);
        let _ =
            writeln!(text, "- the host kept {kept:.1} % of the processors' time from this machine meanwhile");
        for remark in self.remarks.borrow().iter() {
            let _ = writeln!(text, "- {remark}");
        }
        let failed = self.failed.borrow();
        if !failed.is_empty() {
            text.push_str("\n## Not measured to the end\n\n");
            for (section, reason) in failed.iter() {
                let _ = writeln!(text, "- {section}: {}", reason.replace('\n', " "));
            }
        }
        let _ = write!(text, "\n## Side by side\n\n{}", table::rows(&self.rows.borrow()));
        let curves = self.curves.borrow();
        if !curves.is_empty() {
            text.push_str("\n## As work grows\n");
        }
        for curve in curves.iter() {
            let _ = write!(text, "\n### {}\n\n{}", curve.title, table::curve(curve));
        }
        text
    }
}

/// What a panic said.
fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned()
}

fn first_field(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let gib = shipped::memory_gib();
    let (model, kernel) =
        (model.map_or("unknown processor", |(_, model)| model), first_field("/proc/sys/kernel/osrelease"));
    format!("{cores} × {model}, {gib:.0} GiB, Linux {kernel}; everything on this one machine, over loopback")
}

fn java() -> String {
    let told = std::process::Command::new("java").arg("-version").output();
    let told = told.map(|output| String::from_utf8_lossy(&output.stderr).into_owned()).unwrap_or_default();
    told.lines().next().unwrap_or("Java unknown").replace('"', "")
}
