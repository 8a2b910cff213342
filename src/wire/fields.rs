//! Fields of a JSON object, read one by one with their path, so that every complaint names its field.
//!
//! Law: absent and `null` are the same; a value of another type is never bent into the one expected.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::Malformed;
use super::json::{Json, Object};
use crate::model::{Id, Resources, resources, time};

/// The most labels, tolerations, taints or other resource names of one payload.
pub const MOST_ENTRIES: usize = 64;
/// The longest label, taint, arch or the like, in bytes.
pub const LONGEST_WORD: usize = 256;
/// The most thousandths of a core one task or runner may name: a million cores.
pub const MOST_CPU: u64 = 1_000_000 * 1_000;
/// The most bytes of memory one task or runner may name: 1 EiB.
pub const MOST_MEMORY: u64 = 1 << 60;
/// The most of any other resource one task or runner may name.
pub const MOST_OTHER: u64 = 1_000_000_000;

/// An object of a payload and the path it stands under.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    object: &'a Object<'a>,
    path: Path,
}

/// Where an object stands; put into words for a complaint alone.
#[derive(Debug, Clone)]
enum Path {
    /// It is the payload.
    Payload,
    /// A field of the payload.
    Field(&'static str),
    At(Arc<str>),
    /// A place in a list that stands there.
    In(Arc<str>, usize),
}

/// Reads a payload as JSON.
pub fn json(body: &[u8]) -> Result<Json<'_>, Malformed> {
    serde_json::from_slice(body).map_err(|why| Malformed::payload(format!("is not JSON: {why}")))
}

impl Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Payload => Ok(()),
            Path::Field(name) => f.write_str(name),
            Path::At(path) => f.write_str(path),
            Path::In(list, place) => write!(f, "{list}[{place}]"),
        }
    }
}

impl<'a> Fields<'a> {
    /// The payload itself, whose `v` must be 1 or absent.
    pub fn of_payload(value: &'a Json<'a>) -> Result<Self, Malformed> {
        let object = value.as_object().ok_or_else(|| Malformed::payload("is not a JSON object"))?;
        Self::of_object(object)
    }

    /// The same, where it is known to be an object.
    pub fn of_object(object: &'a Object<'a>) -> Result<Self, Malformed> {
        let fields = Self { object, path: Path::Payload };
        Self::of_version(fields.get("v"))?;
        Ok(fields)
    }

    /// Whether this version reads payloads of version `v`.
    pub fn of_version(v: Option<&Json<'_>>) -> Result<(), Malformed> {
        match v {
            Some(v) if v.as_u64() != Some(1) => {
                Err(Malformed::value("v", v, "this version reads 1; send it without \"v\" or with 1"))
            }
            _ => Ok(()),
        }
    }

    /// An object that stands there.
    fn at(value: &'a Json<'a>, path: Path) -> Result<Self, Malformed> {
        match value.as_object() {
            Some(object) => Ok(Self { object, path }),
            None => Err(Malformed::value(path.to_string(), value, "expected an object")),
        }
    }

    /// The path of the field called `name`.
    pub fn path(&self, name: &str) -> String {
        match &self.path {
            Path::Payload => name.to_owned(),
            path => format!("{path}.{name}"),
        }
    }

    /// The value of a field, unless it is absent or null.
    pub fn get(&self, name: &str) -> Option<&'a Json<'a>> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    /// Every field with a value, in the order of their names.
    pub fn entries(&self) -> impl Iterator<Item = (&'a str, &'a Json<'a>)> {
        self.object.iter().filter(|(_, value)| !value.is_null())
    }

    /// The complaint that a field is missing.
    pub fn missing(&self, name: &str) -> Malformed {
        Malformed::new(self.path(name), "is missing")
    }

    /// The complaint that the value of a field cannot be taken.
    pub fn refuse(&self, name: &str, value: &Json<'_>, why: impl Display) -> Malformed {
        Malformed::value(self.path(name), value, why)
    }

    /// A text, whole.
    pub fn text(&self, name: &str) -> Result<Option<&'a str>, Malformed> {
        self.get(name)
            .map(|value| value.as_str().ok_or_else(|| self.refuse(name, value, "expected a text")))
            .transpose()
    }

    /// A short text: at most 256 bytes.
    pub fn word(&self, name: &str) -> Result<Option<Arc<str>>, Malformed> {
        self.get(name).map(|value| self.word_in(name, value)).transpose()
    }

    /// A text that `T` can be read from: a token, a UUID.
    pub fn parsed<T: FromStr>(&self, name: &str) -> Result<Option<T>, Malformed>
    where
        T::Err: Display,
    {
        let Some(text) = self.text(name)? else { return Ok(None) };
        text.parse().map(Some).map_err(|why| self.refuse(name, &text.into(), why))
    }

    /// A name.
    pub fn id(&self, name: &str) -> Result<Option<Id>, Malformed> {
        self.parsed(name)
    }

    /// Yes or no.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, Malformed> {
        self.get(name)
            .map(|value| value.as_bool().ok_or_else(|| self.refuse(name, value, "expected true or false")))
            .transpose()
    }

    /// A whole number from `least` to `most`.
    pub fn whole(&self, name: &str, least: i64, most: i64) -> Result<Option<i64>, Malformed> {
        let expected = || format!("expected a whole number from {least} to {most}");
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.as_i64() {
            Some(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => Err(self.refuse(name, value, expected())),
        }
    }

    /// A whole count of the `u32` kind, from `least` to `most`.
    pub fn count(&self, name: &str, least: u32, most: u32) -> Result<Option<u32>, Malformed> {
        let number = self.whole(name, least.into(), most.into())?;
        Ok(number.map(|number| u32::try_from(number).expect("bounded by u32 limits")))
    }

    /// A turn, heartbeat or other running number.
    pub fn number(&self, name: &str) -> Result<Option<u64>, Malformed> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value
            .as_u64()
            .map(Some)
            .ok_or_else(|| self.refuse(name, value, "expected a whole number that is not negative"))
    }

    /// A span such as `"15s"`.
    pub fn span(&self, name: &str) -> Result<Option<Duration>, Malformed> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let text = value.as_str().ok_or_else(|| self.refuse(name, value, "expected a span like \"15s\""))?;
        time::parse_span(text).map(Some).map_err(|why| self.refuse(name, value, why))
    }

    /// An object within this one.
    pub fn object(&self, name: &'static str) -> Result<Option<Fields<'a>>, Malformed> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let path = match self.path {
            Path::Payload => Path::Field(name),
            _ => Path::At(self.path(name).into()),
        };
        Fields::at(value, path).map(Some)
    }

    /// A list of at most `most` values; an absent one is empty.
    pub fn list(&self, name: &str, most: usize) -> Result<&'a [Json<'a>], Malformed> {
        let Some(value) = self.get(name) else { return Ok(&[]) };
        let list = value.as_list().ok_or_else(|| self.refuse(name, value, "expected a list"))?;
        self.bounded(name, list.len(), most)?;
        Ok(list)
    }

    /// A list of at most `most` objects; an absent one is empty.
    pub fn objects(&self, name: &str, most: usize) -> Result<Vec<Fields<'a>>, Malformed> {
        let list = self.list(name, most)?;
        if list.is_empty() {
            return Ok(Vec::new());
        }
        let path: Arc<str> = self.path(name).into();
        let objects = list.iter().enumerate();
        objects.map(|(place, value)| Fields::at(value, Path::In(path.clone(), place))).collect()
    }

    /// A list of names.
    pub fn ids(&self, name: &str, most: usize) -> Result<Vec<Id>, Malformed> {
        let list = self.list(name, most)?.iter().enumerate();
        list.map(|(place, value)| {
            let path = format!("{}[{place}]", self.path(name));
            let text = value.as_str().ok_or_else(|| Malformed::value(&path, value, "expected a name"))?;
            Id::parse(text).map_err(|why| Malformed::value(&path, value, why))
        })
        .collect()
    }

    /// A set of short texts: tolerations, taints.
    pub fn words(&self, name: &str) -> Result<BTreeSet<Arc<str>>, Malformed> {
        self.list(name, MOST_ENTRIES)?.iter().map(|value| self.word_in(name, value)).collect()
    }

    /// Short texts by name: labels.
    pub fn labels(&self, name: &'static str) -> Result<BTreeMap<Arc<str>, Arc<str>>, Malformed> {
        let Some(labels) = self.object(name)? else { return Ok(BTreeMap::new()) };
        self.bounded(name, labels.object.len(), MOST_ENTRIES)?;
        labels
            .entries()
            .map(|(label, value)| {
                let text = labels.word_in(label, value)?;
                let bytes = label.len() + text.len();
                if bytes > LONGEST_WORD {
                    let why = format!("has {bytes} bytes with its name; at most {LONGEST_WORD} are allowed");
                    return Err(Malformed::new(labels.path(label), why));
                }
                Ok((label.into(), text))
            })
            .collect()
    }

    /// Amounts by name. What is not named is 0; `None` if the field is absent or null.
    pub fn resources(&self, name: &'static str) -> Result<Option<Resources>, Malformed> {
        let Some(amounts) = self.object(name)? else { return Ok(None) };
        self.bounded(name, amounts.object.len(), MOST_ENTRIES)?;
        let mut read = Resources { cpu: amounts.cpu("cpu")?.unwrap_or(0), ..Resources::default() };
        read.memory = amounts.memory("memory")?.unwrap_or(0);
        for (other, value) in amounts.entries().filter(|(name, _)| !matches!(*name, "cpu" | "memory")) {
            if other.is_empty() || other.len() > LONGEST_WORD {
                let why = format!("expected a resource name of 1 to {LONGEST_WORD} bytes");
                return Err(amounts.refuse(other, value, why));
            }
            let amount = value.as_u64().filter(|amount| *amount <= MOST_OTHER).ok_or_else(|| {
                amounts.refuse(other, value, format!("expected a whole count from 0 to {MOST_OTHER}"))
            })?;
            if amount > 0 {
                read.other.insert(other.into(), amount);
            }
        }
        Ok(Some(read))
    }

    /// An amount of cpu, in thousandths of a core: a number of cores, or `"500m"`.
    pub fn cpu(&self, name: &str) -> Result<Option<u64>, Malformed> {
        let read = |value: &Json<'_>| match value {
            Json::Number(number) => resources::parse_cpu(&number.to_string()),
            Json::Text(text) => resources::parse_cpu(text),
            _ => Err("expected cores, like 2 or 0.5, or thousandths, like \"500m\"".to_owned()),
        };
        self.amount(name, read, MOST_CPU)
    }

    /// An amount of memory, in bytes: a number of bytes, or `"2GiB"`.
    pub fn memory(&self, name: &str) -> Result<Option<u64>, Malformed> {
        let read = |value: &Json<'_>| match value {
            Json::Number(number) => match number.as_u64() {
                Some(bytes) => Ok(bytes),
                None => resources::parse_memory(&number.to_string()),
            },
            Json::Text(text) => resources::parse_memory(text),
            _ => Err("expected bytes, or a text like \"512MiB\"".to_owned()),
        };
        self.amount(name, read, MOST_MEMORY)
    }

    fn amount(
        &self,
        name: &str,
        read: impl Fn(&Json<'_>) -> Result<u64, String>,
        most: u64,
    ) -> Result<Option<u64>, Malformed> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match read(value) {
            Ok(amount) if amount <= most => Ok(Some(amount)),
            Ok(_) => {
                let unit = if most == MOST_CPU { "cpu" } else { "memory" };
                let why = format!("at most {} is allowed", resources::amount_text(unit, most));
                Err(self.refuse(name, value, why))
            }
            Err(why) => Err(self.refuse(name, value, why)),
        }
    }

    fn word_in(&self, name: &str, value: &Json<'_>) -> Result<Arc<str>, Malformed> {
        let text = value.as_str().ok_or_else(|| self.refuse(name, value, "expected a text"))?;
        if text.len() > LONGEST_WORD {
            let why = format!("has {} bytes; at most {LONGEST_WORD} are allowed", text.len());
            return Err(Malformed::new(self.path(name), why));
        }
        Ok(text.into())
    }

    fn bounded(&self, name: &str, entries: usize, most: usize) -> Result<(), Malformed> {
        if entries <= most {
            return Ok(());
        }
        Err(Malformed::new(self.path(name), format!("has {entries} entries; at most {most} are allowed")))
    }
}

/// Turns an absent field into the complaint that it is missing.
pub trait Required<T> {
    /// The value, or `is missing` said of `name`.
    fn required(self, fields: &Fields<'_>, name: &str) -> Result<T, Malformed>;
}

impl<T> Required<T> for Result<Option<T>, Malformed> {
    fn required(self, fields: &Fields<'_>, name: &str) -> Result<T, Malformed> {
        self?.ok_or_else(|| fields.missing(name))
    }
}
