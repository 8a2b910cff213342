//! Real nats-servers for the tests: one, or three as a cluster, on free ports and in directories of their own.
//! Each is ended by its own id when its test ends, also on a panic.

#![allow(dead_code, reason = "each test file uses its part")]

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Longer than any server here takes to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// One nats-server.
#[derive(Debug)]
pub struct Broker {
    program: PathBuf,
    port: u16,
    cluster: Option<ClusterPart>,
    extra: String,
    /// Whether every write is on disk before it is acknowledged.
    syncs: bool,
    directory: TempDir,
    child: Option<Child>,
    /// A configuration that is used as it stands, with the variables it needs.
    given: Option<(PathBuf, Vec<(String, String)>)>,
}

/// What a server of a cluster knows of the others.
#[derive(Debug, Clone)]
struct ClusterPart {
    name: String,
    port: u16,
    routes: Vec<u16>,
}

impl Broker {
    /// A server of its own with JetStream, ready.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// The same with more lines of configuration.
    pub fn start_with(extra: &str) -> Self {
        let mut broker = Self::new(free_ports()[0], None, extra);
        broker.up();
        broker
    }

    /// The same, with everything on disk before it is acknowledged.
    pub fn start_syncing() -> Self {
        let mut broker = Self::new(free_ports()[0], None, "");
        broker.syncs = true;
        broker.up();
        broker
    }

    /// A server with a configuration file as it stands, but for the ports. Its directory is the variable
    /// `LONGSHORE_NATS_STORE`.
    pub fn start_with_file(file: &Path, variables: Vec<(String, String)>) -> Self {
        let mut broker = Self::new(free_ports()[0], None, "");
        broker.given = Some((file.to_owned(), variables));
        broker.up();
        broker
    }

    fn new(port: u16, cluster: Option<ClusterPart>, extra: &str) -> Self {
        let directory = TempDir::with_prefix("longshore-nats-").expect("a temporary directory");
        Self {
            program: program(),
            port,
            cluster,
            extra: extra.to_owned(),
            syncs: false,
            directory,
            child: None,
            given: None,
        }
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Where it keeps its streams.
    pub fn store(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    /// Starts it again on the same port and directory, and waits until JetStream answers.
    pub fn up(&mut self) {
        self.spawn();
        self.wait_until_ready();
    }

    /// Ends it as a power cut would end the process.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it can be ended");
            child.wait().expect("it has ended");
        }
    }

    /// Asks it to stop, and waits until it has.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            kill_process(pid(&child), Signal::TERM).expect("it can be asked");
            child.wait().expect("it has ended");
        }
    }

    /// Stops its clock: it keeps its connections and answers nothing.
    pub fn pause(&self) {
        let child = self.child.as_ref().expect("it runs");
        kill_process(pid(child), Signal::STOP).expect("it can be paused");
        // Each of its threads stops when it gets to it.
        let threads = format!("/proc/{}/task", child.id());
        wait_for("nats-server is paused", || {
            let mut threads = fs::read_dir(&threads).expect("its threads").map(|thread| {
                let stat = fs::read_to_string(thread.expect("a thread").path().join("stat"));
                stat.unwrap_or_default()
            });
            threads.all(|stat| stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T')))
        });
    }

    /// Lets it go on.
    pub fn resume(&self) {
        kill_process(pid(self.child.as_ref().expect("it runs")), Signal::CONT).expect("it can go on");
    }

    fn spawn(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.log()).expect("a file");
        let mut command = Command::new(&self.program);
        match &self.given {
            Some((file, variables)) => {
                command.arg("-c").arg(file).args(["--addr", "127.0.0.1", "--port", &self.port.to_string()]);
                command.args(["--http_port", &free_ports()[0].to_string()]);
                command.envs(variables.iter().cloned()).env("LONGSHORE_NATS_STORE", self.store());
            }
            None => {
                let file = self.directory.path().join("nats.conf");
                fs::write(&file, self.configuration()).expect("a file");
                command.arg("-c").arg(&file);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("nats-server starts"));
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    fn configuration(&self) -> String {
        let (port, store) = (self.port, self.store());
        let sync = if self.syncs { ", sync_interval: always" } else { "" };
        let mut text = format!(
            "listen: \"127.0.0.1:{port}\"\nserver_name: \"n{port}\"\njetstream {{ store_dir: \"{}\", max_file_store: 1TB{sync} }}\n",
            store.display()
        );
        if let Some(part) = &self.cluster {
            let routes: Vec<String> =
                part.routes.iter().map(|port| format!("\"nats-route://127.0.0.1:{port}\"")).collect();
            text += &format!(
                "cluster {{ name: \"{}\", listen: \"127.0.0.1:{}\", routes: [{}] }}\n",
                part.name,
                part.port,
                routes.join(", ")
            );
        }
        text + &self.extra
    }

    fn wait_until_ready(&self) {
        let port = self.port;
        wait_for(
            &format!("nats-server on port {port} is ready; its log is {}", self.log().display()),
            || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok(),
        );
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended by itself; nothing more is wanted of it.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Three servers that keep their streams together.
#[derive(Debug)]
pub struct Cluster {
    pub servers: Vec<Broker>,
}

impl Cluster {
    /// Three servers, each ready; that they have elected a leader is for the first request to find out.
    pub fn start() -> Self {
        let ports = free_ports();
        let (clients, routes) = ports.split_at(3);
        let servers: Vec<Broker> = (0..3)
            .map(|index| {
                let part =
                    ClusterPart { name: "test".to_owned(), port: routes[index], routes: routes.to_vec() };
                let mut broker = Broker::new(clients[index], Some(part), "");
                broker.spawn();
                broker
            })
            .collect();
        for server in &servers {
            server.wait_until_ready();
        }
        Self { servers }
    }

    /// All their addresses, as one setting.
    pub fn urls(&self) -> String {
        self.servers.iter().map(Broker::url).collect::<Vec<_>>().join(",")
    }
}

/// The server `make test` has put in place, or one on the PATH.
fn program() -> PathBuf {
    if let Some(named) = std::env::var_os("NATS_SERVER") {
        return named.into();
    }
    let target =
        Path::new(env!("CARGO_BIN_EXE_longshore")).ancestors().nth(2).expect("target/PROFILE/longshore");
    let placed = target.join("tools").join("nats-server");
    assert!(
        placed.exists(),
        "no nats-server at {}: run scripts/nats-server.sh (make test does), or name one in NATS_SERVER",
        placed.display()
    );
    placed
}

/// Six ports, no two of them the same.
fn free_ports() -> [u16; 6] {
    let held = [(); 6].map(|()| TcpListener::bind(("127.0.0.1", 0)).expect("a free port"));
    held.map(|listener| listener.local_addr().expect("an address").port())
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("an id")).expect("an id is not zero")
}

#[expect(clippy::disallowed_methods, reason = "a deadline of a test")]
fn wait_for(what: &str, mut fact: impl FnMut() -> bool) {
    let began = Instant::now();
    while !fact() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
