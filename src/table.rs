//! Tables for people.

/// Columns as wide as they must be; the last one is free.
#[must_use]
pub fn align<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_nothing_trails() {
        let rows = [["A", "LONG", "LAST"], ["aaa", "b", ""]].map(|row| row.map(str::to_owned));
        assert_eq!(align(&rows), "A    LONG  LAST\naaa  b\n");
    }
}
