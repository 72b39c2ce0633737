//! The ratios as bars, for the README.

use std::fmt::Write as _;

use crate::table::{By, Row};

const LEFT: f64 = 320.0;
const LINE: f64 = 22.0;
const WIDTH: f64 = 1_000.0;
/// A longer bar would say nothing more.
const MOST: f64 = 12.0;

/// Where a ratio ends: the scale is of doublings, so that 0.5 and 2 are both to be seen.
fn width_of(ratio: f64) -> f64 {
    400.0 * (1.0 + ratio.clamp(0.0, MOST)).log2() / (1.0 + MOST).log2()
}

/// All rows of which more is better; the dashed line is what each is compared with, the small mark its aim.
pub fn svg(rows: &[Row]) -> String {
    let shown: Vec<&Row> =
        rows.iter().filter(|row| matches!(row.by, By::Times) && row.value().is_finite()).collect();
    let height = 30.0 + LINE * shown.len() as f64;
    let even = LEFT + width_of(1.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <title>How fast nsqbridge is, as a multiple of what it is compared with</title>\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"{even:.1}\" y=\"13\" text-anchor=\"middle\" fill=\"#666\">as fast (1 ×)</text>\n"
    );
    for (n, row) in shown.iter().enumerate() {
        let top = 20.0 + LINE * n as f64;
        let (text, width) = (top + 12.0, width_of(row.value()));
        let aim = row.aims.map(|(aim, _)| width_of(aim));
        let colour = if row.value() >= 1.0 { "#2a7f4f" } else { "#8a8a8a" };
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{text}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{LEFT}\" y=\"{top}\" width=\"{width:.1}\" height=\"15\" fill=\"{colour}\"/>\n\
             <text x=\"{:.1}\" y=\"{text}\">{:.2} × {}</text>",
            LEFT - 8.0,
            escaped(&row.what),
            (LEFT + width.max(aim.unwrap_or(0.0))).max(even) + 8.0,
            row.value(),
            escaped(row.against),
        );
        if let Some(x) = aim.map(|aim| LEFT + aim) {
            let (from, to) = (top - 1.0, top + 16.0);
            let _ = writeln!(
                svg,
                "<line x1=\"{x:.1}\" y1=\"{from}\" x2=\"{x:.1}\" y2=\"{to}\" stroke=\"#d08a00\" stroke-width=\"2\"/>"
            );
        }
    }
    let _ = writeln!(
        svg,
        "<line x1=\"{even:.1}\" y1=\"16\" x2=\"{even:.1}\" y2=\"{height}\" stroke=\"#333\" stroke-dasharray=\"3 3\"/>"
    );
    svg + "</svg>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
