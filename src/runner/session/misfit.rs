//! Whether an assignment fits on this runner, judged by what the runner itself knows.
//!
//! Law: a runner never runs what does not fit on it, whatever the dispatcher believes. A refusal names the
//! misfit with both sides of it.

use crate::model::{Kind, Offer, Resources, WorkOrder, resources::amount_text};

/// Why work does not fit beside what is held here, or `None` if it does.
pub(super) fn misfit(
    offer: &Offer,
    held: usize,
    used: &Resources,
    kind: Kind,
    order: &WorkOrder,
) -> Option<String> {
    if !offer.kinds.contains(&kind) {
        let takes: Vec<&str> = offer.kinds.iter().map(|kind| kind.as_str()).collect();
        return Some(format!("is a {kind}; this runner takes {}", takes.join(", ")));
    }
    if let Some(why) = other_machine("arch", &order.arch, &offer.arch) {
        return Some(why);
    }
    if let Some(why) = other_machine("os", &order.os, &offer.os) {
        return Some(why);
    }
    if let Some((name, value)) =
        order.labels.iter().find(|(name, value)| offer.labels.get(*name) != Some(value))
    {
        let has = offer.labels.get(name).map_or("no such label", |value| value);
        return Some(format!("needs label {name}={value}; this runner has {has}"));
    }
    if let Some(taint) = offer.taints.difference(&order.tolerations).next() {
        return Some(format!("does not tolerate taint {taint} of this runner"));
    }
    if held >= offer.slots as usize {
        return Some(format!("needs a slot; {held} of {} are taken", offer.slots));
    }
    let all = offer.resources.as_ref()?;
    let free = all.left_after(used);
    order.resources.shortage(&free).map(|short| {
        format!(
            "needs {} {}; {} of {} is free",
            short.name,
            amount_text(short.name, short.needs),
            amount_text(short.name, short.has),
            amount_text(short.name, all.amount(short.name)),
        )
    })
}

fn other_machine(what: &str, needs: &str, has: &str) -> Option<String> {
    (!needs.is_empty() && needs != has).then(|| {
        let has = if has.is_empty() { "none declared" } else { has };
        format!("needs {what} {needs}; this runner has {has}")
    })
}
