//! A dispatcher that shares its table over NATS: the server, the streams, the table, who leads, and the clocks.
//!
//! Law: one thing that is missing does not hide the others, except where nothing more could be asked.

use std::time::Duration;

use async_nats::jetstream::stream::{Info, StorageType};
use futures_util::StreamExt;
use jiff::Timestamp;
use serde_json::Value;

use super::replicas::{Status, ask};
use super::{Findings, bytes, permissions};
use crate::adapters::SystemClock;
use crate::adapters::jetstream::{JetStreamTable, Options, setup};
use crate::broker::{Connection, chain};
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::nats::Named;
use crate::cli::paper::took;
use crate::cli::table;
use crate::model::Head;
use crate::ports::{Clock as _, Table as _, TableError};
use crate::wire::subject::Names;

/// What clocks may differ by before it is worth a word.
const SKEW_MS: u64 = 1_000;
/// A leader writes a turn each second; after so long there is none.
const SILENT_MS: u64 = 10_000;
const FSYNC: &str = "set `jetstream { sync_interval: always }` on every server, or have three in three places: else a power cut loses acknowledged turns";

/// Looks at everything that can be seen over NATS and from the dispatchers named.
pub(super) async fn look(
    found: &mut Findings,
    named: &Named,
    urls: &[String],
    monitoring: Option<&str>,
) -> Result<(), Failure> {
    let connection = match named.connect().await {
        Ok(connection) => connection,
        Err(why) => {
            found.fail("server", why.to_string(), "");
            return Ok(());
        }
    };
    if !server(found, &connection).await {
        return Ok(());
    }
    fsync(found, monitoring).await?;
    let names = &named.names;
    let mut head = None;
    if streams(found, &connection, names).await {
        head = the_table(found, &connection, names, urls).await?;
        permissions::look(found, &connection, names).await;
        consumers(found, &connection, names).await;
    }
    clocks(found, &connection, names).await;
    let dispatchers = dispatchers(found, urls, head.as_ref()).await?;
    if let Some((_, head)) = head {
        leader(found, &head, &dispatchers);
    }
    Ok(())
}

/// Whether the server is one that more can be asked of.
async fn server(found: &mut Findings, connection: &Connection) -> bool {
    let info = connection.client.server_info();
    let cluster = info.cluster.as_ref().map(|name| format!(", of cluster {name}")).unwrap_or_default();
    let checked = setup::check_server(connection).await;
    if let Err(why @ setup::SetupError::TooOld { .. }) = checked {
        found.fail("server", why.to_string(), "");
        return false;
    }
    found.ok("server", format!("nats-server {} at {}{cluster}", info.version, connection.url));
    if let Err(why) = checked {
        found.fail("jetstream", why.to_string(), "");
        return false;
    }
    let account = match connection.jetstream.query_account().await {
        Ok(account) => account,
        Err(why) => {
            found.fail("jetstream", format!("it does not say what there is: {}", chain(&why)), "ask again");
            return false;
        }
    };
    let set_aside = account.reserved_storage.max(account.storage);
    match account.limits.max_storage.and_then(|room| u64::try_from(room).ok()) {
        Some(room) if room > 0 => {
            let says = format!("{} of {} set aside or used", bytes(set_aside), bytes(room));
            let remedy = "give the account or the server more (max_storage), or set smaller nats.*_bytes";
            found.fullness("jetstream", says, (set_aside, room), remedy);
        }
        _ => found.ok(
            "jetstream",
            format!("{} set aside or used; this account has no limit of its own", bytes(set_aside)),
        ),
    }
    true
}

/// What only the monitoring port tells.
async fn fsync(found: &mut Findings, monitoring: Option<&str>) -> Result<(), Failure> {
    let Some(url) = monitoring else {
        let says = "when the server writes to the disk cannot be seen from here (--monitoring URL asks it)";
        found.warn("fsync", says, FSYNC);
        return Ok(());
    };
    let told = match Client::new(url)?.get("/varz", &[]).await {
        Ok(told) => told,
        Err(why) => {
            let says = format!("the monitoring port does not answer at {url}: {why}");
            found.warn(
                "fsync",
                says.replace("start one with `longshore serve`, or", "start nats-server with -m, or"),
                FSYNC,
            );
            return Ok(());
        }
    };
    let config = &told["jetstream"]["config"];
    match (config["sync_always"].as_bool(), config["sync_interval"].as_u64()) {
        (Some(true), _) => found.ok("fsync", "acknowledged is on the disk (sync_interval: always)"),
        (_, Some(every)) => {
            let every = took(every / 1_000_000);
            found.warn("fsync", format!("the server writes to the disk every {every} only"), FSYNC);
        }
        (_, None) => found.warn("fsync", format!("{url} says nothing about JetStream"), FSYNC),
    }
    Ok(())
}

/// Whether the bucket and the streams are all there.
async fn streams(found: &mut Findings, connection: &Connection, names: &Names) -> bool {
    let inspected = match setup::inspect(connection, names).await {
        Ok(inspected) => inspected,
        Err(why) => {
            found.fail("streams", why.to_string(), "");
            return false;
        }
    };
    if inspected.iter().all(|one| one.there.is_none() && one.wrong.is_none()) {
        let says = format!("pool {} has no table yet", names.prefix());
        found.warn("streams", says, "the first `longshore serve --nats` makes it; or name another --pool");
        return false;
    }
    let mut all = true;
    for one in &inspected {
        match (&one.wrong, &one.there) {
            (Some(why), _) => {
                all = false;
                found.fail(one.stream.as_str(), why.to_string(), "");
            }
            (None, Some(info)) => stream(found, info),
            (None, None) => {
                all = false;
                found.warn(one.stream.as_str(), "not made yet", "start a dispatcher: it goes on making it");
            }
        }
    }
    if let Some(bucket) = inspected.first().and_then(|bucket| bucket.there.as_ref()) {
        copies(found, &inspected, bucket);
    }
    all
}

fn stream(found: &mut Findings, info: &Info) {
    let (state, config) = (&info.state, &info.config);
    let room = u64::try_from(config.max_bytes).unwrap_or(0);
    let of = if room > 0 { format!(" of {}", bytes(room)) } else { String::new() };
    let says = format!("{} messages, {}{of}", state.messages, bytes(state.bytes));
    let drops_old = config.discard == async_nats::jetstream::stream::DiscardPolicy::Old;
    // What drops its oldest when it is full is full in the end, and that is fine.
    let used = if drops_old { 0 } else { state.bytes };
    let remedy = "raise its limit (nats.*_bytes, `nats stream edit --max-bytes`) before it refuses";
    found.fullness(&config.name, says, (used, room), remedy);
    if config.storage != StorageType::File {
        found.fail(config.name.as_str(), "kept in memory", "make it anew in files");
    }
}

/// On how many servers everything is kept, and whether they are all there.
fn copies(found: &mut Findings, inspected: &[setup::Found], bucket: &Info) {
    let count = bucket.config.num_replicas;
    match count {
        3.. => found.ok("copies", format!("{count} servers keep the table")),
        _ => found.warn(
            "copies",
            format!("{count} server keeps the table: with its disk everything is lost"),
            "for production run three servers in three places and set nats.replicas = 3",
        ),
    }
    for info in inspected.iter().filter_map(|one| one.there.as_ref()) {
        let Some(cluster) = &info.cluster else { continue };
        let stream = info.config.name.as_str();
        if cluster.leader.is_none() {
            found.fail(stream, "no server leads it", "start the servers that are missing");
        }
        for peer in cluster.replicas.iter().filter(|peer| peer.offline || !peer.current) {
            let what = if peer.offline { "is away" } else { "is not up to date" };
            found.warn(stream, format!("server {} {what}", peer.name), "see to that server");
        }
    }
}

/// Reads the whole table, and compares the dispatchers with it; its id and its head.
async fn the_table(
    found: &mut Findings,
    connection: &Connection,
    names: &Names,
    urls: &[String],
) -> Result<Option<(String, Head)>, Failure> {
    let read = async {
        let opened = JetStreamTable::open(connection, names, Options::default()).await?;
        Ok::<_, TableError>((opened.load().await?, opened))
    };
    let (load, opened) = match read.await {
        Ok(read) => read,
        Err(why) => {
            found.fail("table", why.to_string(), "");
            return Ok(None);
        }
    };
    let (table, head, rows) = (load.table.to_string(), load.head, load.rows.len());
    match table::judge(load, opened, urls).await {
        Ok((broken, compared)) => {
            if broken.is_empty() {
                found.ok("table", format!("{rows} rows after turn {}; no rule is broken", head.number));
            }
            broken
                .iter()
                .for_each(|rule| found.fail("table", rule, "report this; `longshore table rows` shows all"));
            for one in compared.iter().filter(|one| one.answered) {
                one.differs.iter().for_each(|what| {
                    let remedy = "stop that dispatcher and start it again; report this";
                    found.fail("table", format!("{}: {what}", one.url), remedy);
                });
                if one.differs.is_empty() {
                    found.ok("table", format!("{} shows what the log says", one.url));
                }
            }
        }
        Err(Failure::Usage(why)) => return Err(Failure::Usage(why)),
        Err(why) => found.fail("table", why.to_string(), ""),
    }
    Ok(Some((table, head)))
}

async fn consumers(found: &mut Findings, connection: &Connection, names: &Names) {
    for stream in [names.submit_stream(), names.report_stream()] {
        let asked = match connection.jetstream.get_stream(&stream).await {
            Ok(asked) => asked,
            Err(why) => {
                found.fail("consumers", format!("ask for {stream}: {}", chain(&why)), "ask again");
                continue;
            }
        };
        let mut consumers = asked.consumers();
        let mut count = 0;
        while let Some(next) = consumers.next().await {
            let info = match next {
                Ok(info) => info,
                Err(why) => {
                    found.fail("consumers", format!("list those of {stream}: {}", chain(&why)), "ask again");
                    break;
                }
            };
            count += 1;
            let says = format!(
                "{} of {stream}: {} pending, {} being decided, {} pulls open",
                info.name, info.num_pending, info.num_ack_pending, info.num_waiting
            );
            if info.paused {
                let left = info.pause_remaining.unwrap_or(Duration::ZERO);
                let left = took(u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
                found.warn("consumer", format!("{says}; paused for {left} more"), "`longshore unpause`");
            } else {
                found.ok("consumer", says);
            }
        }
        if count == 0 {
            found.warn("consumer", format!("{stream} has none"), "a dispatcher makes them when it leads");
        }
    }
}

/// How far this machine's clock and the server's are apart.
async fn clocks(found: &mut Findings, connection: &Connection, names: &Names) {
    let clock = SystemClock::new();
    let asked = clock.wall().0;
    // An answer about a stream says when it was made.
    let told: Result<Value, _> =
        connection.jetstream.request(format!("STREAM.INFO.{}", names.bucket_stream()), &()).await;
    let answered = clock.wall().0;
    let at = match &told {
        Ok(told) => told["ts"].as_str().and_then(|at| at.parse::<Timestamp>().ok()),
        Err(_) => None,
    };
    let Some(at) = at.and_then(|at| u64::try_from(at.as_millisecond()).ok()) else {
        let says = "the server does not say what time it has";
        return found.warn("clocks", says, "see that all machines follow the same time (NTP)");
    };
    let apart = at.abs_diff(u64::midpoint(asked, answered));
    let about = answered.saturating_sub(asked) / 2;
    let says =
        format!("the server's and this machine's are {} apart, give or take {}", took(apart), took(about));
    if apart > SKEW_MS + about {
        let remedy = "have both follow the same time (NTP): not_before and expiry follow the leader's clock";
        found.warn("clocks", says, remedy);
    } else {
        found.ok("clocks", says);
    }
}

async fn dispatchers(
    found: &mut Findings,
    urls: &[String],
    head: Option<&(String, Head)>,
) -> Result<Vec<Status>, Failure> {
    let mut answered = Vec::new();
    for url in urls {
        match ask(url).await {
            Ok(status) => {
                status.judge(found, head.map(|(table, head)| (table.as_str(), head.number)));
                answered.push(status);
            }
            Err(Failure::Usage(why)) => return Err(Failure::Usage(why)),
            Err(why) => found.fail("dispatcher", why.to_string(), ""),
        }
    }
    if urls.is_empty() {
        found.warn("dispatcher", "none was named, so none was asked", "name each with --url");
    } else if urls.len() == 1 {
        found.warn(
            "dispatcher",
            "only one was named",
            "name a second with --url; run two, so that one may go",
        );
    }
    Ok(answered)
}

/// Who leads, by the log itself.
fn leader(found: &mut Findings, head: &Head, dispatchers: &[Status]) {
    let now = SystemClock::new().wall().0;
    let leaders = dispatchers.iter().filter(|one| one.leads()).count();
    if leaders > 1 {
        let says = format!("{leaders} dispatchers say they lead; the table takes turns of one");
        found.warn("leader", says, "look again: one of them is about to find out");
    }
    if head.at.0 > now + SKEW_MS {
        let ahead = took(head.at.0 - now);
        let says = format!("the last turn's time is {ahead} ahead of this machine's");
        return found.warn(
            "leader",
            says,
            "log time never goes back; not_before and expiry come late until then",
        );
    }
    let age = now.saturating_sub(head.at.0);
    let says = format!("turn {} was written {} ago by {}", head.number, took(age), head.id.leader);
    if head.released && age > SKEW_MS {
        found.fail(
            "leader",
            format!("{says}, which has stopped"),
            "start a dispatcher: longshore serve --nats URL",
        );
    } else if age > SILENT_MS {
        found.fail(
            "leader",
            format!("{says}, and none since"),
            "start a dispatcher: longshore serve --nats URL",
        );
    } else {
        found.ok("leader", says);
    }
}
