//! Amounts a task asks for and a runner has: cpu in thousandths of a core, memory in bytes, other counts by name.
//!
//! Law: an absent name means 0. Amounts never go below zero; what would, is held at zero by the caller's rule.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// An amount of each resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Resources {
    /// Thousandths of a core.
    #[serde(default)]
    pub cpu: u64,
    /// Bytes.
    #[serde(default)]
    pub memory: u64,
    /// Any other named whole count: `gpu`, `license`, …
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub other: BTreeMap<Arc<str>, u64>,
}

impl Resources {
    /// So many thousandths of a core and so many bytes.
    pub fn new(cpu: u64, memory: u64) -> Self {
        Self { cpu, memory, other: BTreeMap::new() }
    }

    /// The amount of the resource called `name`.
    pub fn amount(&self, name: &str) -> u64 {
        match name {
            "cpu" => self.cpu,
            "memory" => self.memory,
            other => self.other.get(other).copied().unwrap_or(0),
        }
    }

    /// The first resource of which this asks for more than `available` has, with both amounts.
    pub fn shortage<'a>(&'a self, available: &Resources) -> Option<Shortage<'a>> {
        let short = |name, needs: u64, has: u64| (needs > has).then_some(Shortage { name, needs, has });
        short("cpu", self.cpu, available.cpu)
            .or_else(|| short("memory", self.memory, available.memory))
            .or_else(|| {
                self.other.iter().find_map(|(name, needs)| short(name, *needs, available.amount(name)))
            })
    }

    /// Whether all of this is within `available`.
    pub fn within(&self, available: &Resources) -> bool {
        self.shortage(available).is_none()
    }

    /// Adds `more` of each.
    pub fn add(&mut self, more: &Resources) {
        self.cpu += more.cpu;
        self.memory += more.memory;
        for (name, amount) in &more.other {
            *self.other.entry(name.clone()).or_insert(0) += amount;
        }
    }

    /// Takes `less` of each away.
    ///
    /// Law: what is taken was added before. A name that falls to zero is absent again.
    pub fn subtract(&mut self, less: &Resources) {
        self.cpu -= less.cpu;
        self.memory -= less.memory;
        for (name, amount) in &less.other {
            let left = self.amount(name) - amount;
            if left == 0 {
                self.other.remove(name);
            } else {
                self.other.insert(name.clone(), left);
            }
        }
    }

    /// What is left of this after `used`, never below zero.
    pub fn left_after(&self, used: &Resources) -> Resources {
        Resources {
            cpu: self.cpu.saturating_sub(used.cpu),
            memory: self.memory.saturating_sub(used.memory),
            other: self
                .other
                .iter()
                .map(|(name, has)| (name.clone(), has.saturating_sub(used.amount(name))))
                .collect(),
        }
    }
}

/// A resource of which more is needed than there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage<'a> {
    /// The resource's name.
    pub name: &'a str,
    /// The amount asked for, in the resource's own unit.
    pub needs: u64,
    /// The amount there is.
    pub has: u64,
}

/// Writes an amount of `name` as people do: cores, binary bytes, plain counts.
pub fn amount_text(name: &str, amount: u64) -> String {
    match name {
        "cpu" if amount.is_multiple_of(1000) => (amount / 1000).to_string(),
        "cpu" => format!("{}.{}", amount / 1000, format!("{:03}", amount % 1000).trim_end_matches('0')),
        "memory" => bytes_text(amount),
        _ => amount.to_string(),
    }
}

fn bytes_text(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, size)| bytes >= *size) {
        Some((unit, size)) if bytes.is_multiple_of(*size) => format!("{}{unit}", bytes / size),
        Some((unit, size)) => format!("{:.1}{unit}", bytes as f64 / *size as f64),
        None => format!("{bytes}B"),
    }
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cpu {}, memory {}", amount_text("cpu", self.cpu), amount_text("memory", self.memory))?;
        self.other.iter().try_for_each(|(name, amount)| write!(f, ", {name} {amount}"))
    }
}

/// Reads an amount of cpu, in cores with up to three decimals (`2`, `0.5`) or thousandths (`"500m"`).
pub fn parse_cpu(text: &str) -> Result<u64, String> {
    const EXPECTED: &str =
        "expected cores with up to three decimals, like 2 or 0.5, or thousandths, like \"500m\"";
    if let Some(milli) = text.strip_suffix('m') {
        return milli.parse().map_err(|_| EXPECTED.to_owned());
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if whole.is_empty() || fraction.len() > 3 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(EXPECTED.to_owned());
    }
    let whole: u64 = whole.parse().map_err(|_| EXPECTED.to_owned())?;
    let digits = fraction.bytes().chain(std::iter::repeat(b'0')).take(3);
    let fraction = digits.fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    let milli = whole.checked_mul(1000).and_then(|whole| whole.checked_add(fraction));
    milli.ok_or_else(|| "is too large".to_owned())
}

/// Reads an amount of memory: bytes, or a whole number with a unit (`"512MiB"`, `"2GiB"`, `"2GB"`).
pub fn parse_memory(text: &str) -> Result<u64, String> {
    const EXPECTED: &str =
        "expected bytes, or a number with KiB, MiB, GiB, TiB, kB, MB, GB or TB, like \"512MiB\"";
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| EXPECTED.to_owned())?;
    let scale: u64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" | "Ki" => 1 << 10,
        "MiB" | "Mi" => 1 << 20,
        "GiB" | "Gi" => 1 << 30,
        "TiB" | "Ti" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(EXPECTED.to_owned()),
    };
    number.checked_mul(scale).ok_or_else(|| "is too large".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_the_protocol_writes_them() {
        assert_eq!(parse_cpu("2"), Ok(2000));
        assert_eq!(parse_cpu("0.5"), Ok(500));
        assert_eq!(parse_cpu("500m"), Ok(500));
        assert_eq!(parse_cpu("1.25"), Ok(1250));
        assert!(parse_cpu("0.0005").is_err());
        assert_eq!(parse_cpu("18446744073709551.615"), Ok(u64::MAX));
        assert!(parse_cpu("18446744073709551.616").is_err());
        assert!(parse_cpu("-1").is_err());
        assert_eq!(parse_memory("2GiB"), Ok(2 << 30));
        assert_eq!(parse_memory("2GB"), Ok(2_000_000_000));
        assert!(parse_memory("lots").is_err());
        assert_eq!(amount_text("cpu", 1500), "1.5");
        assert_eq!(amount_text("memory", 2 << 30), "2GiB");
    }

    #[test]
    fn what_is_added_and_taken_away_leaves_the_same_amount() {
        let mut held = Resources::new(500, 10);
        let before = held.clone();
        let gpu = Resources { other: [("gpu".into(), 2)].into(), ..Resources::new(1, 1) };
        held.add(&gpu);
        held.subtract(&gpu);
        assert_eq!(held, before);
    }
}
