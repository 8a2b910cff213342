//! The socket an engine is reached at: it can be closed in the middle of everything, and opened again.

use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// A socket in front of an engine.
#[derive(Debug)]
pub struct Door {
    at: PathBuf,
    engine: PathBuf,
    open: Option<AbortOnDropHandle<()>>,
}

impl Door {
    /// An open door at `at` to the engine's own socket.
    pub fn to(engine: PathBuf, at: PathBuf) -> Self {
        let mut door = Self { at, engine, open: None };
        door.open();
        door
    }

    /// Its address, as `--docker` takes it.
    pub fn address(&self) -> String {
        format!("unix://{}", self.at.display())
    }

    pub fn open(&mut self) {
        let listener = UnixListener::bind(&self.at).expect("a free path");
        self.open = Some(AbortOnDropHandle::new(tokio::spawn(pass(listener, self.engine.clone()))));
    }

    /// Breaks off every call, and lets nobody in.
    pub fn shut(&mut self) {
        self.open = None;
        std::fs::remove_file(&self.at).expect("it was open");
    }
}

async fn pass(listener: UnixListener, engine: PathBuf) {
    let mut calls = JoinSet::new();
    loop {
        let (caller, _) = listener.accept().await.expect("it can be accepted");
        calls.spawn(call(caller, engine.clone()));
        while calls.try_join_next().is_some() {}
    }
}

async fn call(mut caller: UnixStream, engine: impl AsRef<Path>) {
    if let Ok(mut engine) = UnixStream::connect(engine).await {
        let _ = tokio::io::copy_bidirectional(&mut caller, &mut engine).await;
    }
}
