//! Layers: the sources of settings, each remembered by name, laid over the defaults.
//!
//! Law: a key that no section knows is refused in the layer that says it, with the nearest key that is known.
//! Only variables with `__` in their name are settings: what a runner puts into a task's environment
//! (`LONGSHORE_TASK`, `LONGSHORE_TOKEN`, …) is not.

use std::path::Path;

use figment::error::{Actual, Kind};
use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::{ClassSection, ConfigError, File, QueueSection};

/// A setting given on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// As it is written, for messages: `--listen`.
    pub name: &'static str,
    /// The key it sets: `server.listen`.
    pub key: &'static str,
    pub value: String,
}

const DEFAULTS: &str = "the defaults";
const PREFIX: &str = "LONGSHORE_";

struct Layer {
    place: String,
    keys: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.place.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.keys.clone()))
    }
}

/// Lays all sources over the defaults, later ones winning. Refuses unknown keys.
pub(super) fn merge(
    file: Option<&Path>,
    variables: impl IntoIterator<Item = (String, String)>,
    flags: &[Flag],
) -> Result<Figment, ConfigError> {
    let known = keys_of(&File::default());
    let mut layers = Vec::new();
    layers.extend(file.map(read_file).transpose()?);
    for (name, value) in variables {
        let Some(key) = name.strip_prefix(PREFIX).filter(|rest| rest.contains("__")) else { continue };
        let key = key.to_ascii_lowercase().replace("__", ".");
        layers.push(Layer { keys: one_key(&known, &key, &value), place: name });
    }
    for flag in flags {
        layers.push(Layer { place: flag.name.to_owned(), keys: one_key(&known, flag.key, &flag.value) });
    }
    let mut merged = Figment::from(Layer { place: DEFAULTS.to_owned(), keys: known.clone() });
    for layer in layers {
        if let Some(key) = unknown(&layer.keys, &known, "") {
            let message = format!("unknown key {key:?}; did you mean {:?}?", nearest(&key, &known));
            return Err(ConfigError { place: layer.place, message });
        }
        merged = merged.merge(layer);
    }
    Ok(merged)
}

/// The file's form of what was merged. Refuses values of a wrong type.
pub(super) fn extract(merged: &Figment) -> Result<File, ConfigError> {
    merged.extract().map_err(|why| {
        let place = why.metadata.as_ref().map_or(DEFAULTS.into(), |from| from.name.clone());
        let what = match &why.kind {
            Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected) => {
                let expected = if expected == "i64" { "a whole number" } else { expected };
                format!("({}): expected {expected}", shown(found))
            }
            other => other.to_string(),
        };
        ConfigError { place: place.into_owned(), message: format!("{} {what}", why.path.join(".")) }
    })
}

/// The place that set the first of `keys` that was set at all.
pub(super) fn place_of(merged: &Figment, keys: &[String]) -> String {
    keys.iter()
        .filter_map(|key| merged.find_metadata(key))
        .map(|from| from.name.clone().into_owned())
        .find(|place| place != DEFAULTS)
        .unwrap_or_else(|| DEFAULTS.to_owned())
}

/// A value as it was written.
fn shown(found: &Actual) -> String {
    match found {
        Actual::Bool(value) => value.to_string(),
        Actual::Unsigned(value) => value.to_string(),
        Actual::Signed(value) => value.to_string(),
        Actual::Float(value) => value.to_string(),
        Actual::Str(value) => format!("{value:?}"),
        Actual::Seq => "a list".to_owned(),
        Actual::Map => "a table".to_owned(),
        other => other.to_string(),
    }
}

fn read_file(path: &Path) -> Result<Layer, ConfigError> {
    let place = path.display().to_string();
    let refuse = |message: String| ConfigError { place: place.clone(), message };
    let text = std::fs::read_to_string(path)
        .map_err(|why| refuse(format!("{why}; name an existing file with --config, or none")))?;
    let keys = Toml::from_str(&text).map_err(|why| refuse(why.to_string().trim_end().to_owned()))?;
    Ok(Layer { place, keys })
}

/// One key as a layer. Where the default is text, the value is taken as it stands.
fn one_key(known: &Dict, key: &str, value: &str) -> Dict {
    let is_text = lookup(known, key).is_none_or(|default| default.as_str().is_some());
    let mut inner = if is_text { Value::from(value) } else { value.parse().unwrap_or_else(|_| value.into()) };
    for part in key.rsplit('.') {
        inner = Value::from(Dict::from([(part.to_owned(), inner)]));
    }
    inner.into_dict().expect("a key has at least one part")
}

fn lookup<'a>(known: &'a Dict, key: &str) -> Option<&'a Value> {
    let (section, name) = key.split_once('.')?;
    known.get(section)?.as_dict()?.get(name)
}

fn keys_of<T: serde::Serialize>(section: &T) -> Dict {
    let value = Value::serialize(section).expect("the defaults are plain values");
    value.into_dict().expect("the defaults are tables")
}

/// The first key in `given` that `known` does not have. A known table without keys takes any.
fn unknown(given: &Dict, known: &Dict, path: &str) -> Option<String> {
    given.iter().find_map(|(name, value)| {
        let key = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let Some(expected) = known.get(name) else { return Some(key) };
        match (value, expected) {
            (Value::Dict(_, inner), Value::Dict(_, known)) if !known.is_empty() => {
                unknown(inner, known, &key)
            }
            (Value::Array(_, items), _) if key == "class" => {
                let known = keys_of(&ClassSection::default());
                items.iter().filter_map(Value::as_dict).find_map(|item| unknown(item, &known, "class"))
            }
            (Value::Dict(_, queues), _) if key == "queues" => {
                let known = keys_of(&QueueSection::default());
                let sections = queues.iter().filter_map(|(name, value)| Some((name, value.as_dict()?)));
                sections
                    .into_iter()
                    .find_map(|(name, section)| unknown(section, &known, &format!("queues.{name}")))
            }
            _ => None,
        }
    })
}

/// The known key or section most like `key`, counting a key of the right name in another section as close.
fn nearest(key: &str, known: &Dict) -> String {
    let name = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let distance = |candidate: &str| {
        let whole = strsim::damerau_levenshtein(key, candidate);
        whole.min(strsim::damerau_levenshtein(&name(key), &name(candidate)) + 1)
    };
    let of_classes = keys_of(&ClassSection::default());
    let candidates = |(section, keys): (&String, &Value)| -> Vec<String> {
        let keys = keys.as_dict().unwrap_or(&of_classes).keys();
        keys.map(|name| format!("{section}.{name}")).chain([section.clone()]).collect()
    };
    let queue = key.strip_prefix("queues.").and_then(|rest| rest.rsplit_once('.')).map(|(queue, _)| queue);
    let of_queue = keys_of(&QueueSection::default());
    let of_queue =
        queue.into_iter().flat_map(|queue| of_queue.keys().map(move |name| format!("queues.{queue}.{name}")));
    known
        .iter()
        .flat_map(candidates)
        .chain(of_queue)
        .min_by_key(|candidate| distance(candidate))
        .expect("there are keys")
}
