//! How is told what is being done?
//!
//! On a terminal by a bar, elsewhere by one plain line for each round, so that a log stays readable.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Steps of the bar in one round.
const STEPS: u64 = 1000;

pub(super) struct Reporter {
    bar: Option<ProgressBar>,
    lines: bool,
    rounds: u64,
    done: u64,
}

impl Reporter {
    pub(super) fn new(rounds: u64, quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = (terminal && !quiet).then(|| {
            let bar = ProgressBar::with_draw_target(Some(rounds * STEPS), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{wide_bar} {percent}% eta {eta}  {msg}") {
                bar.set_style(style);
            }
            bar
        });
        Self { bar, lines: !terminal && !quiet, rounds, done: 0 }
    }

    /// A round begins.
    pub(super) fn begin(&self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(what.to_owned());
        }
    }

    /// So much of the round is over, from 0 to 1.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Between 0 and STEPS.
    pub(super) fn part(&self, part: f64) {
        if let Some(bar) = &self.bar {
            bar.set_position(self.done * STEPS + (part.clamp(0.0, 1.0) * 1000.0) as u64);
        }
    }

    /// The round is over.
    pub(super) fn end(&mut self, what: &str, result: &str) {
        self.done += 1;
        self.part(0.0);
        if self.lines {
            eprintln!("[{}/{}] {what}: {result}", self.done, self.rounds);
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
