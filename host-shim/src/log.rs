//! Structured logs: readable lines on a terminal, JSON otherwise.
//!
//! The core's events cannot hold content; this file only names their fields.

use std::io::IsTerminal;

use paddock::platform::journal::{Event, Level};

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Human,
    Json,
}

impl LogFormat {
    /// # Errors
    /// A sentence that names the formats.
    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        match name {
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            "auto" => Ok(if std::io::stdout().is_terminal() { Self::Human } else { Self::Json }),
            _ => Err("must be auto, human or json".to_owned()),
        }
    }
}

/// Starts logging to standard output.
pub(crate) fn init(format: LogFormat) {
    let builder = tracing_subscriber::fmt().with_target(false);
    match format {
        LogFormat::Human => builder.with_ansi(std::io::stdout().is_terminal()).init(),
        LogFormat::Json => {
            builder.json().flatten_event(true).with_current_span(false).with_span_list(false).init();
        }
    }
}

/// Writes a line at an event's level, because the macros of tracing require a constant level.
macro_rules! line {
    ($level:expr, $($fields:tt)*) => {
        match $level {
            Level::Info => tracing::info!($($fields)*),
            Level::Warn => tracing::warn!($($fields)*),
            Level::Error => tracing::error!($($fields)*),
        }
    };
}

/// Writes one event.
pub(crate) fn write(event: &Event<'_>) {
    let (level, summary) = (event.level(), event.summary());
    match event {
        Event::Request(record) => line!(
            level,
            request_id = record.request_id,
            method = record.method,
            route = record.route,
            status = record.status,
            outcome = record.outcome,
            duration_us = record.duration_us(),
            cache = record.cache,
            host = record.host,
            attempts = record.attempts,
            detail = record.detail,
            "{summary}"
        ),
        Event::AttemptFailed { request_id, host, outcome, detail, .. } => {
            line!(level, request_id, host, outcome, detail, "{summary}");
        }
        Event::StoreDown { operation, detail, .. } | Event::StoreRefuses { operation, detail, .. } => {
            line!(level, operation, detail, "{summary}");
        }
        Event::StoreAdvice { detail, .. } => line!(level, detail, "{summary}"),
        Event::StoreUp => line!(level, "{summary}"),
        Event::Misconfigured { problems } => line!(level, problems = problems.join("; "), "{summary}"),
        // A later core may have events that have no line of their own here; they must not be lost.
        _ => line!(level, event = event.to_json(), "{summary}"),
    }
}
