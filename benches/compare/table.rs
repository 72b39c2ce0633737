//! What was measured, as rows and curves, and how they read as text.

use std::fmt::Write as _;

use crate::parts::median;

/// How the two sides are held against each other.
#[derive(Debug, Clone, Copy)]
pub enum By {
    /// Ours over theirs: the more the better.
    Times,
    /// Ours over theirs: the less the better.
    Share,
    /// Ours less theirs: the less the better.
    Extra,
    /// Ours, whatever theirs is: the less the better.
    Own,
}

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
    pub by: By,
    /// What is hoped for, and what is dreamt of.
    pub aims: Option<(f64, f64)>,
    /// What else is worth knowing.
    pub note: String,
}

impl Row {
    /// The comparisons of the rounds, sorted.
    fn compared(&self) -> Vec<f64> {
        let sides = self.ours.iter().zip(&self.theirs);
        let mut compared: Vec<f64> = match self.by {
            By::Times | By::Share => sides.map(|(ours, theirs)| ours / theirs).collect(),
            By::Extra => sides.map(|(ours, theirs)| ours - theirs).collect(),
            By::Own => self.ours.clone(),
        };
        compared.sort_unstable_by(f64::total_cmp);
        compared
    }

    /// The middle comparison.
    pub fn value(&self) -> f64 {
        median(&self.compared())
    }

    fn reached(&self) -> &'static str {
        let Some((aim, moonshot)) = self.aims else { return "" };
        let value = self.value();
        let reaches = |goal: f64| if matches!(self.by, By::Times) { value >= goal } else { value <= goal };
        match (reaches(moonshot), reaches(aim)) {
            (true, _) => "moonshot",
            (_, true) => "aim",
            _ => "no",
        }
    }

    /// A comparison, as it reads.
    fn shown(&self, value: f64) -> String {
        match self.by {
            By::Times | By::Share => format!("{value:.2} ×"),
            By::Extra => format!("{value:+.2} {}", self.unit),
            By::Own => format!("{} {}", figure(value), self.unit),
        }
    }

    fn cells(&self) -> [String; 8] {
        let compared = self.compared();
        let spread = match (compared.first(), compared.last()) {
            (Some(least), Some(most)) => format!("{least:.2}–{most:.2}"),
            _ => String::new(),
        };
        let aims = self.aims.map_or_else(String::new, |(aim, moonshot)| match self.by {
            By::Times => format!("≥ {aim} / {moonshot}"),
            By::Share | By::Extra | By::Own => format!("≤ {aim} / {moonshot}"),
        });
        [
            self.what.clone(),
            format!("{} {}", figure(median(&self.ours)), self.unit),
            format!("{}: {} {}", self.against, figure(median(&self.theirs)), self.unit),
            self.shown(self.value()),
            spread,
            aims,
            self.reached().to_owned(),
            self.note.clone(),
        ]
    }
}

/// How cost goes with one thing that grows.
#[derive(Debug)]
pub struct Curve {
    pub title: String,
    pub heads: Vec<String>,
    pub points: Vec<Vec<String>>,
}

/// Three digits that matter.
pub fn figure(value: f64) -> String {
    match value {
        _ if value >= 10_000.0 => format!("{:.0} k", value / 1_000.0),
        _ if value >= 1_000.0 => format!("{:.1} k", value / 1_000.0),
        _ if value >= 10.0 => format!("{value:.0}"),
        _ if value >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

const HEADS: [&str; 8] =
    ["what", "nsqbridge", "against", "compared", "spread", "aim / moonshot", "reached", "note"];

/// A row while the others are still to come.
pub fn line(row: &Row) -> String {
    let [what, ours, theirs, compared, spread, aims, reached, note] = row.cells();
    let told = [format!("{compared} ({ours}; {theirs})"), spread, aims, reached, note];
    let told: Vec<String> = told.into_iter().filter(|cell| !cell.is_empty()).collect();
    format!("{what}: {}", told.join(", "))
}

/// The whole table.
pub fn rows(rows: &[Row]) -> String {
    table(&HEADS, rows.iter().map(Row::cells))
}

/// The same of a curve.
pub fn curve(curve: &Curve) -> String {
    table(&curve.heads, curve.points.iter())
}

fn table<H: AsRef<str>, L: AsRef<[String]>>(heads: &[H], lines: impl Iterator<Item = L>) -> String {
    let heads: Vec<String> = heads.iter().map(|head| head.as_ref().to_owned()).collect();
    let lines: Vec<Vec<String>> =
        std::iter::once(heads).chain(lines.map(|line| line.as_ref().to_vec())).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    let mut text = String::new();
    for (n, line) in lines.iter().enumerate() {
        let padded: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let _ = writeln!(text, "| {} |", padded.join(" | "));
        if n == 0 {
            let dashes: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
            let _ = writeln!(text, "|{}|", dashes.join("|"));
        }
    }
    text
}
