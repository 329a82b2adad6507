//! What the first start is doing, on stderr: a spinner for people, lines for logs.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::mpsc;

/// Shows each line until the sender is gone.
pub(super) async fn show(mut lines: mpsc::UnboundedReceiver<String>) {
    let started = Instant::now();
    if !std::io::stderr().is_terminal() {
        while let Some(line) = lines.recv().await {
            tracing::info!(elapsed_ms = started.elapsed().as_millis(), "{line}");
        }
        return;
    }
    let spinner = ProgressBar::new_spinner().with_style(
        ProgressStyle::with_template("{spinner} {msg} ({elapsed})")
            .unwrap_or_else(|_invalid| ProgressStyle::default_spinner()),
    );
    spinner.enable_steady_tick(Duration::from_millis(100));
    while let Some(line) = lines.recv().await {
        spinner.set_message(line);
    }
    spinner.finish_and_clear();
}
