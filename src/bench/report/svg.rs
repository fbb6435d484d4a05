//! How does the result look in a picture?
//!
//! One panel for each case, with a horizontal bar for each contender: the median of the operations per second, a line from
//! the lowest to the highest round, and the number. Panels have scales of their own, because a getattr and a
//! megabyte have nothing to say to each other. Written by hand: a picture of rectangles needs no plotting library.

use super::{Report, Spread, Summary};

const WIDTH: f64 = 760.0;
const LABELS: f64 = 150.0;
/// Room behind the longest bar for its number.
const NUMBERS: f64 = 190.0;
const BAR: f64 = 18.0;
const GAP: f64 = 6.0;
const TITLE: f64 = 26.0;
const MARGIN: f64 = 14.0;
/// Told apart by people who see colours differently too.
const COLOURS: [&str; 6] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"];

impl Report {
    /// The operations per second of all cases.
    pub(super) fn svg(&self) -> String {
        let mut body = String::new();
        let mut y = MARGIN + 34.0;
        text(
            &mut body,
            MARGIN,
            MARGIN + 8.0,
            "start",
            15,
            "Operations per second: median, and lowest to highest round",
        );
        text(&mut body, MARGIN, MARGIN + 24.0, "start", 10, &self.conditions());
        for case in &self.cases {
            y += TITLE;
            text(&mut body, MARGIN, y - 8.0, "start", 13, &case.name);
            let largest = case.results.iter().map(|result| result.ops_per_second.max).fold(1.0, f64::max);
            for result in &case.results {
                let colour = self.colour(&result.label);
                bar(&mut body, y, result, largest, colour);
                y += BAR + GAP;
            }
        }
        let height = y + MARGIN;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
             viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{body}</svg>\n"
        )
    }

    fn colour(&self, label: &str) -> &'static str {
        let index = self.contenders.iter().position(|contender| contender.label == label).unwrap_or(0);
        COLOURS.iter().cycle().nth(index).copied().unwrap_or("#000000")
    }
}

fn bar(body: &mut String, y: f64, result: &Summary, largest: f64, colour: &str) {
    let Spread { median, min, max } = result.ops_per_second;
    let scale = (WIDTH - LABELS - NUMBERS - 2.0 * MARGIN) / largest;
    let left = MARGIN + LABELS;
    let (from, to, middle) = (left + min * scale, left + max * scale, y + BAR / 2.0);
    text(body, left - 8.0, middle + 4.0, "end", 12, &result.label);
    let width = median * scale;
    body.push_str(&format!(
        "<rect x=\"{left:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>\n\
         <path d=\"M{from:.1} {middle:.1}H{to:.1}M{from:.1} {:.1}v8M{to:.1} {:.1}v8\" stroke=\"#222222\" \
         stroke-width=\"1.5\" fill=\"none\"/>\n",
        middle - 4.0,
        middle - 4.0,
    ));
    let moved = result.mib_per_second.median;
    let number = if moved > 0.0 { format!("{median:.0} ({moved:.0} MiB/s)") } else { format!("{median:.0}") };
    text(body, to.max(left + width) + 8.0, middle + 4.0, "start", 12, &number);
}

fn text(body: &mut String, x: f64, y: f64, anchor: &str, size: u32, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    body.push_str(&format!(
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\" fill=\"#222222\">{words}</text>\n"
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_cannot_break_the_picture() {
        let mut body = String::new();
        text(&mut body, 1.0, 2.0, "start", 10, "a<b>&c");
        assert!(body.contains(">a&lt;b&gt;&amp;c</text>"), "{body}");
    }
}
