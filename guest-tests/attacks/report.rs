//! How are the verdicts told?

use std::fmt::Write;

use super::target::Target;
use super::verdict::Verdict;

/// A row for each case, a column for each daemon.
pub struct Table {
    columns: Vec<(String, bool)>,
    rows: Vec<(String, Vec<Verdict>)>,
}

impl Table {
    pub fn new(targets: &[Target]) -> Self {
        Self { columns: targets.iter().map(|target| (target.name(), target.ours())).collect(), rows: vec![] }
    }

    pub fn add(&mut self, case: String, verdicts: Vec<Verdict>) {
        self.rows.push((case, verdicts));
    }

    /// The newest row as a line, with what there is to say of it.
    pub fn last(&self) -> String {
        let Some((case, verdicts)) = self.rows.last() else { return String::new() };
        let words: Vec<&str> = verdicts.iter().map(Verdict::word).collect();
        let mut text = format!("{case:44} {}", words.join("  "));
        for ((name, _), verdict) in
            self.columns.iter().zip(verdicts).filter(|(_, verdict)| !verdict.is_good())
        {
            let _ = write!(text, "\n    {name}: {}", verdict.detail());
        }
        text
    }

    pub fn ours_are_good(&self) -> bool {
        let good = |verdicts: &Vec<Verdict>| {
            self.columns.iter().zip(verdicts).all(|((_, ours), verdict)| !ours || verdict.is_good())
        };
        !self.rows.is_empty() && self.rows.iter().all(|(_, verdicts)| good(verdicts))
    }

    /// How many of each verdict every daemon has.
    pub fn summary(&self) -> String {
        let mut text = String::new();
        for (index, (name, _)) in self.columns.iter().enumerate() {
            let words: Vec<&str> = self.rows.iter().map(|(_, verdicts)| verdicts[index].word()).collect();
            let count = |word: &str| words.iter().filter(|found| **found == word).count();
            let counts = ["ok", "-", "LEAKS", "STUCK", "ENDS", "ESCAPES"].map(|word| (word, count(word)));
            let told: Vec<String> =
                counts.iter().filter(|(_, n)| *n > 0).map(|(word, n)| format!("{n} {word}")).collect();
            let _ = writeln!(text, "{name}: {}", told.join(", "));
        }
        text
    }

    pub fn markdown(&self) -> String {
        let names: Vec<&str> = self.columns.iter().map(|(name, _)| name.as_str()).collect();
        let mut text = format!("| attack | {} |\n|---|{}\n", names.join(" | "), "---|".repeat(names.len()));
        for (case, verdicts) in &self.rows {
            let words: Vec<&str> = verdicts.iter().map(Verdict::word).collect();
            let _ = writeln!(text, "| {case} | {} |", words.join(" | "));
        }
        text
    }

    pub fn json(&self) -> String {
        let row = |(case, verdicts): &(String, Vec<Verdict>)| {
            let of = |((name, _), verdict): (&(String, bool), &Verdict)| serde_json::json!({ "daemon": name, "verdict": verdict.word(), "detail": verdict.detail() });
            let verdicts: Vec<_> = self.columns.iter().zip(verdicts).map(of).collect();
            serde_json::json!({ "attack": case, "verdicts": verdicts })
        };
        let rows: Vec<_> = self.rows.iter().map(row).collect();
        format!("{:#}\n", serde_json::Value::Array(rows))
    }
}
