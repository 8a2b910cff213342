//! What is known of Jobs and pods: two watches for a whole runner, and for each attempt what they showed of it.
//!
//! Law: something is gone only if the cluster said so: by a watch, or by a list that was asked for after it had been
//! seen. A watch that breaks, is silent, or comes too late for the cluster's memory (410) begins again with a list.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ListParams, ObjectMeta, WatchEvent, WatchParams};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::cluster::{Trouble, answered, trouble};
use super::job;
use crate::runner::boottime;
use crate::runner::pause::Pause;

/// After so long the cluster ends a watch, in seconds, and it is continued.
const WATCH: u32 = 60;
/// A watch that is silent for longer is broken.
const SILENCE: Duration = Duration::from_secs(75);
/// A watch that ended sooner is not continued at once.
const SHORT: Duration = Duration::from_secs(1);

/// Something of the cluster, as far as it was seen.
#[derive(Debug, Clone, Default)]
pub(super) enum Seen<T> {
    #[default]
    Never,
    There(Arc<T>),
    /// As it was last.
    Gone(Arc<T>),
}

impl<T> Seen<T> {
    pub(super) fn last(&self) -> Option<&T> {
        match self {
            Seen::Never => None,
            Seen::There(last) | Seen::Gone(last) => Some(last),
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        matches!(self, Seen::Gone(_))
    }
}

/// What is known of one attempt.
#[derive(Debug, Clone, Default)]
pub(super) struct Sight {
    pub job: Seen<Job>,
    pub pod: Seen<Pod>,
    /// When it was first seen that the Job had started, since this machine started.
    pub begun: Option<Duration>,
}

/// A kind of thing that is watched.
pub(super) trait Watched: Clone + Debug + DeserializeOwned + Send + Sync + 'static {
    fn meta(&self) -> &ObjectMeta;
    /// The Job it is or belongs to.
    fn job(&self) -> Option<&str>;
    fn place(sight: &mut Sight) -> &mut Seen<Self>;
    /// What follows from having seen it.
    fn note(&self, _sight: &mut Sight) {}
}

impl Watched for Job {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn job(&self) -> Option<&str> {
        self.metadata.name.as_deref()
    }

    fn place(sight: &mut Sight) -> &mut Seen<Self> {
        &mut sight.job
    }

    fn note(&self, sight: &mut Sight) {
        if self.status.as_ref().is_some_and(|status| status.start_time.is_some()) {
            sight.begun.get_or_insert_with(boottime);
        }
    }
}

impl Watched for Pod {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn job(&self) -> Option<&str> {
        self.metadata.labels.as_ref()?.get(job::JOB_NAME).map(String::as_str)
    }

    fn place(sight: &mut Sight) -> &mut Seen<Self> {
        &mut sight.pod
    }
}

/// What is known of all attempts that are followed.
#[derive(Debug, Clone, Default)]
pub(super) struct Sights(Arc<Mutex<BTreeMap<String, watch::Sender<Sight>>>>);

/// What is known of one attempt, for as long as it is followed.
#[derive(Debug)]
pub(super) struct Following {
    all: Sights,
    job: String,
    sight: watch::Receiver<Sight>,
}

impl Following {
    pub(super) fn sight(&mut self) -> Sight {
        self.sight.borrow_and_update().clone()
    }

    /// Waits until something else is known than at the last look.
    pub(super) async fn changed(&mut self) {
        self.sight.changed().await.expect("what is followed is known until it is dropped");
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.all.all().remove(&self.job);
    }
}

impl Sights {
    /// Follows a Job that is about to be made.
    pub(super) fn follow(&self, job: &str) -> Following {
        let (sender, sight) = watch::channel(Sight::default());
        self.all().insert(job.to_owned(), sender);
        Following { all: self.clone(), job: job.to_owned(), sight }
    }

    /// Watches everything of a kind that carries these labels, for as long as it is polled.
    pub(super) async fn watch<K: Watched>(self, all: Api<K>, labels: String) {
        let mut pause = Pause::new(Duration::from_millis(200), Duration::from_secs(5));
        let mut told = false;
        loop {
            let why = self.list_and_watch(&all, &labels, &mut pause, &mut told).await;
            if matches!(why, Trouble::Refused { code: 410, .. }) {
                tracing::debug!("a watch came too late for the cluster's memory; it begins again");
            } else if !std::mem::replace(&mut told, true) {
                tracing::warn!(%why, "the cluster cannot be watched; it is asked again");
            }
            sleep(pause.next(None)).await;
        }
    }

    /// Returns why it could not go on.
    async fn list_and_watch<K: Watched>(
        &self,
        all: &Api<K>,
        labels: &str,
        pause: &mut Pause,
        told: &mut bool,
    ) -> Trouble {
        let before = self.there::<K>();
        let list = match answered(all.list(&ListParams::default().labels(labels))).await {
            Ok(list) => list,
            Err(why) => return why,
        };
        let mut version = list.metadata.resource_version.unwrap_or_default();
        let listed: BTreeSet<String> =
            list.items.iter().filter_map(|found| found.job().map(str::to_owned)).collect();
        list.items.into_iter().for_each(|found| self.see(found));
        before.difference(&listed).for_each(|job| self.lose::<K>(job, None));
        loop {
            let began = Instant::now();
            if let Err(why) = self.watch_once(all, labels, &mut version).await {
                return why;
            }
            (*told, *pause) = (false, Pause::new(Duration::from_millis(200), Duration::from_secs(5)));
            if began.elapsed() < SHORT {
                sleep(pause.next(None)).await;
            }
        }
    }

    /// Takes in what one watch shows, until the cluster ends it.
    async fn watch_once<K: Watched>(
        &self,
        all: &Api<K>,
        labels: &str,
        version: &mut String,
    ) -> Result<(), Trouble> {
        let params = WatchParams::default().labels(labels).timeout(WATCH);
        let events = answered(all.watch(&params, version)).await?;
        let mut events = std::pin::pin!(events);
        loop {
            let silent = |_| Trouble::Silent("a watch was silent for too long".to_owned());
            let Some(event) = timeout(SILENCE, events.next()).await.map_err(silent)? else { return Ok(()) };
            match event.map_err(|why| trouble(&why))? {
                WatchEvent::Added(found) | WatchEvent::Modified(found) => {
                    remember(version, found.meta());
                    self.see(found);
                }
                WatchEvent::Deleted(found) => {
                    remember(version, found.meta());
                    if let Some(job) = found.job().map(str::to_owned) {
                        self.lose(&job, Some(found));
                    }
                }
                WatchEvent::Bookmark(mark) => version.clone_from(&mark.metadata.resource_version),
                WatchEvent::Error(status) => return Err(trouble(&kube::Error::Api(status))),
            }
        }
    }

    /// The Jobs of which something of this kind was seen and not lost.
    fn there<K: Watched>(&self) -> BTreeSet<String> {
        let there = |sender: &watch::Sender<Sight>| {
            let mut sight = sender.borrow().clone();
            matches!(K::place(&mut sight), Seen::There(_))
        };
        self.all().iter().filter(|(_, sender)| there(sender)).map(|(job, _)| job.clone()).collect()
    }

    fn see<K: Watched>(&self, found: K) {
        let Some(job) = found.job().map(str::to_owned) else { return };
        if let Some(sender) = self.all().get(&job) {
            sender.send_modify(|sight| {
                found.note(sight);
                *K::place(sight) = Seen::There(Arc::new(found));
            });
        }
    }

    fn lose<K: Watched>(&self, job: &str, last: Option<K>) {
        if let Some(sender) = self.all().get(job) {
            sender.send_modify(|sight| {
                let place = K::place(sight);
                let last = last.map(Arc::new).or_else(|| match place {
                    Seen::There(last) | Seen::Gone(last) => Some(last.clone()),
                    Seen::Never => None,
                });
                if let Some(last) = last {
                    *place = Seen::Gone(last);
                }
            });
        }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, watch::Sender<Sight>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn remember(version: &mut String, of: &ObjectMeta) {
    if let Some(newer) = &of.resource_version {
        version.clone_from(newer);
    }
}
