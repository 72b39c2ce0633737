//! What was measured, and how it is shown: a table on the terminal, `benches/results.md`, and a picture.

use std::fmt::Write as _;

use crate::parts::median;

/// One comparison.
#[derive(Debug)]
pub struct Row {
    /// What was done.
    pub what: String,
    /// What was measured, with its unit.
    pub unit: &'static str,
    /// What it is compared with.
    pub against: &'static str,
    /// The figures of each round; both sides of a round were measured one right after the other.
    pub ours: Vec<f64>,
    pub theirs: Vec<f64>,
    /// The ratio hoped for, and the one dreamt of.
    pub aims: Option<(f64, f64)>,
    /// Less is better: the ratio is turned over.
    pub less: bool,
    /// What else is worth knowing.
    pub note: String,
}

impl Row {
    /// Ratios of the rounds, sorted.
    fn ratios(&self) -> Vec<f64> {
        let mut ratios: Vec<f64> =
            self.ours.iter().zip(&self.theirs).map(|(ours, theirs)| ours / theirs).collect();
        ratios.sort_unstable_by(f64::total_cmp);
        ratios
    }

    /// The middle ratio.
    pub fn ratio(&self) -> f64 {
        median(&self.ratios())
    }

    fn reached(&self) -> &'static str {
        let Some((aim, moonshot)) = self.aims else { return "" };
        let reaches = |goal: f64| if self.less { self.ratio() <= goal } else { self.ratio() >= goal };
        match (reaches(moonshot), reaches(aim)) {
            (true, _) => "moonshot",
            (_, true) => "aim",
            _ => "below",
        }
    }

    fn cells(&self) -> [String; 8] {
        let ratios = self.ratios();
        let spread = match (ratios.first(), ratios.last()) {
            (Some(least), Some(most)) => format!("{least:.2}–{most:.2}"),
            _ => String::new(),
        };
        let aims = self.aims.map_or_else(String::new, |(aim, moonshot)| format!("{aim} / {moonshot}"));
        [
            self.what.clone(),
            format!("{} {}", figure(median(&self.ours)), self.unit),
            format!("{} {}", self.against, figure(median(&self.theirs))),
            format!("{:.2}", self.ratio()),
            spread,
            aims,
            self.reached().to_owned(),
            self.note.clone(),
        ]
    }
}

/// Three digits that matter.
fn figure(value: f64) -> String {
    match value {
        _ if value >= 10_000.0 => format!("{:.0} k", value / 1_000.0),
        _ if value >= 1_000.0 => format!("{:.1} k", value / 1_000.0),
        _ if value >= 10.0 => format!("{value:.0}"),
        _ if value >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

const HEADS: [&str; 8] =
    ["what", "nsqbridge", "against", "ratio", "spread", "aim / moonshot", "reached", "note"];

/// For a terminal.
pub fn text(rows: &[Row]) -> String {
    let cells: Vec<[String; 8]> =
        std::iter::once(HEADS.map(str::to_owned)).chain(rows.iter().map(Row::cells)).collect();
    let mut widths = [0; 8];
    for line in &cells {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in &cells {
        let padded: Vec<String> =
            line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let _ = writeln!(text, "{}", padded.join("  ").trim_end());
    }
    text
}

/// For a file.
pub fn markdown(rows: &[Row]) -> String {
    let mut text = format!("| {} |\n|{}\n", HEADS.join(" | "), "---|".repeat(HEADS.len()));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.cells().join(" | "));
    }
    text
}

/// Ratios as bars; 1 is what each is compared with.
pub fn svg(rows: &[Row]) -> String {
    let shown: Vec<&Row> = rows.iter().filter(|row| !row.less).collect();
    let (left, line, most) = (330.0, 22.0, 10.0_f64);
    let width_of = |ratio: f64| 420.0 * (1.0 + ratio.min(most)).log2() / (1.0 + most).log2();
    let height = 40.0 + line * shown.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"860\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"860\" height=\"{height}\" fill=\"#fff\"/>\n\
         <line x1=\"{x}\" y1=\"18\" x2=\"{x}\" y2=\"{height}\" stroke=\"#999\" stroke-dasharray=\"3 3\"/>\n\
         <text x=\"{x}\" y=\"13\" text-anchor=\"middle\" fill=\"#666\">as fast as what it is compared with</text>\n",
        x = left + width_of(1.0),
    );
    for (n, row) in shown.iter().enumerate() {
        let y = 24.0 + line * n as f64;
        let width = width_of(row.ratio());
        let colour = if row.ratio() >= 1.0 { "#2a7f4f" } else { "#8a8a8a" };
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{left}\" y=\"{y}\" width=\"{width:.1}\" height=\"15\" fill=\"{colour}\"/>\n\
             <text x=\"{:.1}\" y=\"{}\">{:.2} × {}</text>",
            left - 8.0,
            y + 12.0,
            escaped(&row.what),
            left + width + 6.0,
            y + 12.0,
            row.ratio(),
            escaped(row.against),
        );
    }
    svg + "</svg>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
