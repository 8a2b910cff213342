//! A submitted task as the runner that is to run it reads it.
//!
//! Law: it reads only what running needs; whether the rest is well-formed was the dispatcher's to judge.

use std::collections::BTreeMap;

use super::Malformed;
use super::fields::{Fields, json};
use crate::model::{Traceparent, WorkOrder};

/// The most arguments of a command, and the most variables of an environment.
const MOST_ARGUMENTS: usize = 65_536;
/// The most mounts of a container.
const MOST_MOUNTS: usize = 100;

/// Reads a task's JSON.
pub fn read_work(task: &str) -> Result<WorkOrder, Malformed> {
    let value = json(task.as_bytes())?;
    let fields = Fields::of_payload(&value)?;
    let mut order = WorkOrder {
        resources: fields.resources("resources")?.unwrap_or_default(),
        arch: fields.word("arch")?.unwrap_or_default(),
        os: fields.word("os")?.unwrap_or_default(),
        labels: fields.labels("labels")?,
        tolerations: fields.words("tolerations")?,
        build: fields.id("build")?,
        output: fields.parsed("output")?,
        timeout: fields.span("timeout")?,
        traceparent: fields.get(Traceparent::NAME).and_then(|said| Traceparent::parse(said.as_str()?)),
        ..WorkOrder::default()
    };
    let Some(spec) = fields.object("spec")? else { return Ok(order) };
    order.image = spec.text("image")?.map(Into::into);
    order.workdir = spec.text("workdir")?.map(str::to_owned);
    order.env = read_env(&spec)?;
    order.command = texts(&spec, "command", MOST_ARGUMENTS)?;
    order.mounts = texts(&spec, "mounts", MOST_MOUNTS)?;
    Ok(order)
}

fn texts(spec: &Fields<'_>, name: &str, most: usize) -> Result<Vec<String>, Malformed> {
    let items = spec.list(name, most)?.iter().enumerate();
    items
        .map(|(place, item)| {
            let path = || format!("{}[{place}]", spec.path(name));
            let text = item.as_str().ok_or_else(|| Malformed::value(path(), item, "expected a text"))?;
            Ok(text.to_owned())
        })
        .collect()
}

fn read_env(spec: &Fields<'_>) -> Result<BTreeMap<String, String>, Malformed> {
    let Some(env) = spec.object("env")? else { return Ok(BTreeMap::new()) };
    env.entries()
        .map(|(name, value)| match value.as_str() {
            Some(text) if !name.is_empty() && !name.contains(['=', '\0']) => {
                Ok((name.to_owned(), text.to_owned()))
            }
            Some(_) => Err(env.refuse(name, value, "expected a name without '=' and NUL")),
            None => Err(env.refuse(name, value, "expected a text")),
        })
        .collect()
}
