//! How does the result look in a document?

use super::{Report, Rows};

impl Report {
    /// All tables as Markdown, with what is needed to measure again.
    pub(super) fn markdown(&self) -> String {
        let mut text = format!("Measured with {}.\n\n", self.conditions());
        for contender in &self.contenders {
            match &contender.command {
                Some(command) => {
                    text.push_str(&format!("* {}: `{}`\n", contender.label, command.replace('`', "'")))
                }
                None => text.push_str(&format!("* {}: the same I/O without a daemon\n", contender.label)),
            }
        }
        for rows in [self.figures(), self.ratios(), self.stalls()] {
            if !rows.1.is_empty() {
                text.push('\n');
                text.push_str(&pipes(&rows));
            }
        }
        text
    }
}

fn pipes((head, rows): &Rows) -> String {
    let line = |cells: &mut dyn Iterator<Item = String>| {
        let cells: Vec<String> = cells.map(|cell| cell.replace('|', "\\|")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let mut text = line(&mut head.iter().map(|&word| word.to_owned()));
    let rule = (0..head.len()).map(|column| if column < 2 { "---" } else { "---:" });
    text.push_str(&line(&mut rule.map(str::to_owned)));
    for row in rows {
        text.push_str(&line(&mut row.iter().cloned()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_in_cells_do_not_make_columns() {
        let text =
            pipes(&(vec!["a", "b", "c"], vec![vec!["x|y".to_owned(), "z".to_owned(), "1".to_owned()]]));
        assert_eq!(text, "| a | b | c |\n| --- | --- | ---: |\n| x\\|y | z | 1 |\n");
    }
}
