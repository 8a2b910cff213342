//! What a cluster offers: the sum of what its machines can give to pods.
//!
//! Law: only machines count that are ready, take pods, and are reserved for nothing but what the runner's taints name. What
//! others use of them is not subtracted, and what changes later is not seen: a runner offers what it found at its start.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::model::Resources;

/// What the machines of a cluster offer together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capacity {
    pub machines: usize,
    pub resources: Resources,
    /// The architecture all of them have.
    pub arch: Option<String>,
}

/// Which machines count.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Any, if there is none.
    pub arch: Option<&'a str>,
    pub os: &'a str,
}

/// Sums up the machines that count. `names` are the cluster's words for a runner's named counts.
pub(super) fn sum(
    machines: &[Node],
    wanted: Wanted<'_>,
    taints: &BTreeSet<Arc<str>>,
    names: &BTreeMap<Arc<str>, String>,
) -> Capacity {
    let counted = machines.iter().filter(|one| takes_pods(one, taints)).filter(|one| {
        label(one, "kubernetes.io/os").is_none_or(|os| os == wanted.os)
            && wanted.arch.is_none_or(|arch| label(one, "kubernetes.io/arch") == Some(arch))
    });
    let mut all = Capacity::default();
    let mut archs = BTreeSet::new();
    for one in counted {
        let amounts = one.status.as_ref().and_then(|status| status.allocatable.as_ref());
        let amount = |name: &str| amounts.and_then(|all| thousandths(all.get(name)?)).unwrap_or(0);
        all.machines += 1;
        all.resources.cpu += whole(amount("cpu"));
        all.resources.memory += whole(amount("memory") / 1_000);
        for (name, theirs) in names {
            let count = whole(amount(theirs) / 1_000);
            if count > 0 {
                *all.resources.other.entry(name.clone()).or_default() += count;
            }
        }
        archs.insert(label(one, "kubernetes.io/arch").map(str::to_owned));
    }
    all.arch = if archs.len() == 1 { archs.pop_first().flatten() } else { None };
    all
}

fn whole(amount: u128) -> u64 {
    u64::try_from(amount).unwrap_or(u64::MAX)
}

fn label<'a>(machine: &'a Node, name: &str) -> Option<&'a str> {
    machine.metadata.labels.as_ref()?.get(name).map(String::as_str)
}

fn takes_pods(machine: &Node, tolerated: &BTreeSet<Arc<str>>) -> bool {
    let spec = machine.spec.clone().unwrap_or_default();
    let conditions = machine.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready =
        conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"));
    let kept = |key: &str, effect: &str| effect != "PreferNoSchedule" && !tolerated.contains(key);
    let reserved = spec.taints.unwrap_or_default().iter().any(|taint| kept(&taint.key, &taint.effect));
    ready && !reserved && spec.unschedulable != Some(true)
}

/// An amount in the cluster's notation (`3920m`, `8`, `32817152Ki`, `1e3`), in thousandths; `None` if it is none.
fn thousandths(amount: &Quantity) -> Option<u128> {
    let text = amount.0.as_str();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return None;
    }
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let part: String = format!("{part}000").chars().take(3).collect();
    let thousandths = format!("{whole}{part}").parse::<u128>().ok()?;
    let (times, by): (u128, u128) = match unit {
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "" => (1, 1),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        exponent => (10u128.checked_pow(exponent.strip_prefix(['e', 'E'])?.parse().ok()?)?, 1),
    };
    Some(thousandths.checked_mul(times)? / by)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn machine(labels: Value, spec: Value, ready: &str) -> Node {
        let allocatable = json!({"cpu": "3920m", "memory": "1Gi", "nvidia.com/gpu": "2"});
        let status = json!({"allocatable": allocatable, "conditions": [{"type": "Ready", "status": ready}]});
        serde_json::from_value(json!({"metadata": {"labels": labels}, "spec": spec, "status": status}))
            .expect("a machine")
    }

    fn sum_of(machines: &[Node], arch: Option<&str>, taints: &[&str]) -> Capacity {
        let names = [("gpu".into(), "nvidia.com/gpu".to_owned())].into();
        let taints = taints.iter().map(|taint| (*taint).into()).collect();
        sum(machines, Wanted { arch, os: "linux" }, &taints, &names)
    }

    #[test]
    fn amounts_are_read_in_every_notation() {
        let read = |text: &str| thousandths(&Quantity(text.to_owned()));
        for (text, amount) in [
            ("8", 8_000),
            ("3920m", 3_920),
            ("0.5", 500),
            ("1.25", 1_250),
            ("2Ki", 2_048_000),
            ("3k", 3_000_000),
            ("1e3", 1_000_000),
            ("1500000u", 1_500),
        ] {
            assert_eq!(read(text), Some(amount), "{text}");
        }
        assert_eq!((read("Gi"), read("1X"), read("")), (None, None, None));
    }

    #[test]
    fn only_machines_that_take_the_runners_pods_are_summed_up() {
        let amd = json!({"kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux"});
        let arm = json!({"kubernetes.io/arch": "arm64", "kubernetes.io/os": "linux"});
        let spot = json!({"taints": [{"key": "spot", "effect": "NoSchedule"}]});
        let machines = [
            machine(amd.clone(), json!({}), "True"),
            machine(amd.clone(), json!({}), "False"),
            machine(amd.clone(), json!({"unschedulable": true}), "True"),
            machine(amd.clone(), spot, "True"),
            machine(arm, json!({}), "True"),
            machine(json!({"kubernetes.io/os": "windows"}), json!({}), "True"),
        ];
        let all = sum_of(&machines, None, &[]);
        assert_eq!((all.machines, all.arch), (2, None));
        assert_eq!((all.resources.cpu, all.resources.memory), (7_840, 2 << 30));
        assert_eq!(all.resources.other["gpu"], 4);
        let amd = sum_of(&machines, Some("amd64"), &["spot"]);
        assert_eq!((amd.machines, amd.arch.as_deref()), (2, Some("amd64")));
    }
}
