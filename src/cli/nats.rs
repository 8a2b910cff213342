//! The NATS server a command speaks to, and as whom.
//!
//! Law: a wrong address is found before anything is tried (2), a server that is not there ends the command (3),
//! and no password is ever shown.

use std::path::PathBuf;

use clap::Args;

use super::failure::Failure;
use crate::broker::{Connection, Server, shown, wrong_with};
use crate::model::Id;
use crate::wire::subject::{DEFAULT_POOL, Names};

#[derive(Debug, Args)]
pub(super) struct NatsArgs {
    /// Speak NATS with the server at this address; several, separated by commas, are one cluster
    #[arg(long, value_name = "URL", env = "LONGSHORE_NATS", hide_env_values = true)]
    nats: Option<String>,
    /// The pool, on NATS [default: default]
    #[arg(long, value_name = "NAME")]
    pool: Option<Id>,
    /// A file with the credentials for NATS
    #[arg(long, value_name = "FILE", env = "LONGSHORE_NATS_CREDENTIALS")]
    nats_credentials: Option<PathBuf>,
    /// The user on NATS
    #[arg(long, value_name = "NAME", env = "LONGSHORE_NATS_USER")]
    nats_user: Option<String>,
    /// The password on NATS; rather set the variable, other users see arguments
    #[arg(long, value_name = "PASSWORD", env = "LONGSHORE_NATS_PASSWORD", hide_env_values = true)]
    nats_password: Option<String>,
    /// Where answers come, for a user that has an inbox of its own, such as _INBOX_r1
    #[arg(long, value_name = "PREFIX", env = "LONGSHORE_NATS_INBOX")]
    nats_inbox: Option<String>,
}

/// A server somebody named.
#[derive(Debug)]
pub(super) struct Named {
    server: Server,
    pub(super) names: Names,
}

impl NatsArgs {
    /// The server to speak to as `name`, if one was named.
    pub(super) fn named(&self, name: String) -> Result<Option<Named>, Failure> {
        let Some(url) = &self.nats else {
            return match &self.pool {
                Some(pool) if pool.as_str() != DEFAULT_POOL => Err(Failure::Usage(format!(
                    "--pool ({pool}): pools are on NATS; name a server with --nats"
                ))),
                _ => Ok(None),
            };
        };
        url.split(',').try_for_each(|url| check(url.trim()))?;
        if self.nats_user.is_some() != self.nats_password.is_some() {
            let why = "--nats-user and LONGSHORE_NATS_PASSWORD belong together; give both or neither";
            return Err(Failure::Usage(why.to_owned()));
        }
        if let Some(inbox) = &self.nats_inbox
            && Id::parse(inbox).is_err()
        {
            let why = "has more than letters, digits, '_', '=' and '-'; give one word like _INBOX_r1";
            return Err(Failure::Usage(format!("--nats-inbox ({inbox:?}) {why}")));
        }
        let pool = self.pool.as_ref().map_or(DEFAULT_POOL, |pool| pool.as_str());
        let server = Server {
            url: url.clone(),
            credentials: self.nats_credentials.clone(),
            user: self.nats_user.clone(),
            password: self.nats_password.clone(),
            name,
            inbox: self.nats_inbox.clone(),
        };
        Ok(Some(Named { server, names: Names::of_pool(pool) }))
    }
}

impl Named {
    /// The server with who we are to it.
    pub(super) fn server(&self) -> &Server {
        &self.server
    }

    /// The same server, in another pool.
    pub(super) fn in_pool(&self, pool: &str) -> Self {
        Self { server: self.server.clone(), names: Names::of_pool(pool) }
    }

    /// The same server and pool, as somebody of another name.
    pub(super) fn as_somebody(&self, name: String) -> Self {
        Self { server: Server { name, ..self.server.clone() }, names: self.names.clone() }
    }

    /// Its address as it was given, with whatever secrets stand in it.
    pub(super) fn url(&self) -> &str {
        &self.server.url
    }

    /// Where it is, fit to be shown.
    pub(super) fn place(&self) -> String {
        shown(&self.server.url)
    }

    /// Connects to it.
    pub(super) async fn connect(&self) -> Result<Connection, Failure> {
        Ok(Connection::open(&self.server).await?)
    }
}

/// Whether one address could be a NATS server's.
fn check(url: &str) -> Result<(), Failure> {
    let Some(why) = wrong_with(url) else { return Ok(()) };
    let place = shown(url);
    Err(Failure::Usage(format!("--nats ({place:?}) {why}; give an address like nats://127.0.0.1:4222")))
}
