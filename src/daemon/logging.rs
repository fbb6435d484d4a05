//! Where do messages go, and how do they look?
//!
//! Lines on stderr look like virtiofsd's, `[2026-11-21T08:00:00.000000Z INFO  extentfsd::daemon] text`: launchers such
//! as Kata's read them. The environment variable `RUST_LOG`, if set, decides what is written to stderr instead of
//! `--log-level`, as for virtiofsd. Messages of libraries that use the `log` crate arrive too.

use std::fmt;

use syslog_tracing::{Facility, Syslog};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber, error, info, warn};
use tracing_log::NormalizeEvent;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt as output;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::cli::{Log, LogLevel, Note};

/// Starts logging.
///
/// # Errors
///
/// If logging was started before.
pub(super) fn start(log: &Log) -> Result<(), TryInitError> {
    let level = match log.level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    if log.syslog {
        // The connection is made now, as the sandbox will not reach /dev/log. And the time zone is read now: syslog(3) would
        // read it with its first message, and where the share is the root directory /etc/localtime is the guest's.
        super::sys::read_time_zone();
        let options = syslog_tracing::Options::LOG_PID | syslog_tracing::Options::LOG_NDELAY;
        if let Some(syslog) = Syslog::new(c"extentfsd", options, Facility::User) {
            // The system log adds time and level itself.
            return output()
                .with_writer(syslog)
                .with_max_level(level)
                .with_ansi(false)
                .without_time()
                .with_level(false)
                .finish()
                .try_init();
        }
    }
    let wanted = std::env::var("RUST_LOG").unwrap_or_default();
    let lines = output::layer().with_writer(std::io::stderr).event_format(Line);
    tracing_subscriber::registry().with(lines).with(filter(&wanted, level)).try_init()
}

/// What `RUST_LOG` lets through: directives of the form `LEVEL`, `TARGET` or `TARGET=LEVEL` between commas. A wrong one is left out,
/// not fatal; without a right one the other level counts.
fn filter(wanted: &str, otherwise: LevelFilter) -> Targets {
    let directives: Vec<Targets> = wanted.split(',').filter_map(right).collect();
    if directives.is_empty() {
        return Targets::new().with_default(otherwise);
    }
    directives.into_iter().fold(Targets::new(), |all, one| match one.default_level() {
        Some(level) => all.with_default(level),
        None => all.with_targets(one),
    })
}

fn right(directive: &str) -> Option<Targets> {
    let directive = directive.trim();
    // A name as the compiler makes them, or a level, also in figures.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_:=".contains(&byte);
    if directive.is_empty() || !directive.bytes().all(plain) || directive.starts_with('=') {
        return None;
    }
    directive.parse().ok()
}

/// Logs the remarks on the command line.
pub(super) fn remark(notes: &[Note]) {
    for Note { level, text } in notes {
        match level {
            LogLevel::Error => error!("{text}"),
            LogLevel::Warn => warn!("{text}"),
            _ => info!("{text}"),
        }
    }
}

/// One line for each event.
struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let bridged = event.normalized_metadata();
        let metadata = bridged.as_ref().unwrap_or_else(|| event.metadata());
        writer.write_char('[')?;
        SystemTime.format_time(&mut writer)?;
        write!(writer, " {:<5} {}] ", metadata.level().as_str(), metadata.target())?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_has_time_level_and_target() {
        let buffer = Buffer::default();
        let sink = buffer.clone();
        let subscriber = output().event_format(Line).with_writer(move || sink.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            info!(target: "extentfsd", "Waiting for vhost-user socket connection...");
        });
        let line = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        let (time, rest) = line.split_once("Z ").unwrap();
        assert!(time.starts_with("[20") && time.contains('T'), "{line}");
        assert_eq!(rest, "INFO  extentfsd] Waiting for vhost-user socket connection...\n");
    }

    #[test]
    fn right_directives_count_and_wrong_ones_are_left_out() {
        use tracing::Level;

        for wrong in ["", ",", "=", "=debug", "extentfsd=loud", "[span]=info", "a=b=c", "/pattern"] {
            let only = filter(wrong, LevelFilter::WARN);
            assert_eq!(only.default_level(), Some(LevelFilter::WARN), "{wrong}");
            assert_eq!(only.iter().count(), 0, "{wrong}");
        }
        let some = filter("=, debug ,extentfsd::ring=trace,vhost=off,[", LevelFilter::WARN);
        assert!(some.would_enable("extentfsd::fs", &Level::DEBUG));
        assert!(!some.would_enable("extentfsd::fs", &Level::TRACE));
        assert!(some.would_enable("extentfsd::ring::worker", &Level::TRACE));
        assert!(!some.would_enable("vhost", &Level::ERROR));
        let one = filter("extentfsd=info", LevelFilter::TRACE);
        assert!(one.would_enable("extentfsd", &Level::INFO) && !one.would_enable("vhost", &Level::ERROR));
        assert!(!filter("off", LevelFilter::TRACE).would_enable("extentfsd", &Level::ERROR));
    }
}
