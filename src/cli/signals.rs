//! TERM, INT and the end of standard input: the wish that this process stop.
//!
//! Law: the first asks for a stop in good order; the second ends the process at once, which nothing durable
//! minds.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::failure::Failure;

/// The exit code of a process that was interrupted twice.
const INTERRUPTED: i32 = 130;

/// A token that is cancelled by the first TERM or INT.
pub(super) fn stop_asked() -> Result<CancellationToken, Failure> {
    let listen = |kind| signal(kind).map_err(|why| Failure::Broken(format!("listen for signals: {why}")));
    let mut term = listen(SignalKind::terminate())?;
    let mut int = listen(SignalKind::interrupt())?;
    let stop = CancellationToken::new();
    let asked = stop.clone();
    tokio::spawn(async move {
        for first in [true, false] {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            if !first {
                std::process::exit(INTERRUPTED);
            }
            asked.cancel();
        }
    });
    Ok(stop)
}

/// Cancels `stop` when standard input ends. Whatever is written to it is thrown away.
pub(super) fn stop_at_end_of_input(stop: &CancellationToken) {
    let asked = stop.clone();
    // A thread of its own: reading cannot be given up, and must not keep the process.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        asked.cancel();
    });
}
