//! How does the result look on a terminal? Columns of equal width, numbers to the right.

use super::{Report, Rows};

impl Report {
    /// All tables as text.
    pub(in crate::bench) fn table(&self) -> String {
        let mut text = self.conditions() + "\n";
        for rows in [self.figures(), self.ratios(), self.stalls()] {
            if !rows.1.is_empty() {
                text.push('\n');
                text.push_str(&columns(&rows));
            }
        }
        text
    }
}

fn columns((head, rows): &Rows) -> String {
    let head: Vec<String> = head.iter().map(|&word| word.to_owned()).collect();
    let lines: Vec<&Vec<String>> = std::iter::once(&head).chain(rows).collect();
    let width = |column| {
        let cells =
            lines.iter().filter_map(|line| line.get(column)).map(|cell: &String| cell.chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    for line in lines {
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let separator = if column == 0 { "" } else { "  " };
            // The first two columns are words.
            let padded = if column < 2 { format!("{cell:<width$}") } else { format!("{cell:>width$}") };
            text.push_str(separator);
            text.push_str(&padded);
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["a".to_owned(), "long name".to_owned(), "1".to_owned()]];
        let text = columns(&(vec!["work", "x", "op/s"], rows));
        assert_eq!(text, "work  x          op/s\na     long name     1\n");
    }
}
