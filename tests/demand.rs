//! How many runners are asked for: the counted packing against one that places task by task.

use std::sync::Arc;

use longshore::core::demand::{Packed, Packing};
use longshore::core::fit::{self, Usage};
use longshore::model::{Kind, Offer, QueueId, Resources, Shape};
use proptest::prelude::*;

fn offer(cpu: u64, memory: u64, gpu: u64, slots: u32, opaque: bool) -> Arc<Offer> {
    let mut resources = Resources::new(cpu, memory);
    if gpu > 0 {
        resources.other.insert("gpu".into(), gpu);
    }
    Arc::new(Offer {
        kinds: [Kind::Job].into(),
        queues: Default::default(),
        arch: "amd64".into(),
        os: "linux".into(),
        labels: Default::default(),
        taints: Default::default(),
        group: None,
        resources: (!opaque).then_some(resources),
        slots,
        open: false,
    })
}

fn shape(cpu: u64, memory: u64, gpu: u64) -> Shape {
    let mut resources = Resources::new(cpu, memory);
    if gpu > 0 {
        resources.other.insert("gpu".into(), gpu);
    }
    Shape {
        kind: Kind::Job,
        queue: QueueId::parse("default").expect("a name"),
        resources,
        arch: "".into(),
        os: "".into(),
        labels: Default::default(),
        tolerations: Default::default(),
        group: None,
    }
}

/// One task after the other, each into the first runner that has room.
struct OneByOne {
    offer: Arc<Offer>,
    runners: Vec<Usage>,
    left: u64,
}

impl OneByOne {
    fn take(&mut self, shape: &Shape, tasks: u64) -> Packed {
        let mut packed = Packed::default();
        if fit::never(shape, &self.offer).is_some() {
            return packed;
        }
        for _ in 0..tasks {
            let has_room = |used: &Usage| fit::room(shape, &self.offer, used).is_none();
            let place = match self.runners.iter().position(has_room) {
                Some(place) => place,
                None if self.left > 0 => {
                    self.left -= 1;
                    packed.runners += 1;
                    self.runners.push(Usage::default());
                    self.runners.len() - 1
                }
                None => break,
            };
            self.runners[place].add(shape);
            packed.tasks += 1;
        }
        packed
    }
}

fn any_offer() -> impl Strategy<Value = Arc<Offer>> {
    (1..=8_u64, 1..=8_u64, 0..=2_u64, 1..=6_u32, any::<bool>())
        .prop_map(|(cpu, memory, gpu, slots, opaque)| offer(cpu, memory, gpu, slots, opaque))
}

fn any_demand() -> impl Strategy<Value = Vec<(Shape, u64)>> {
    let one = (0..=9_u64, 0..=9_u64, 0..=2_u64, 0..=30_u64);
    proptest::collection::vec(
        one.prop_map(|(cpu, memory, gpu, tasks)| (shape(cpu, memory, gpu), tasks)),
        1..6,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn counting_in_bulk_asks_for_as_many_as_placing_one_by_one(
        offer in any_offer(), starting in 0..=4_u64, left in 0..=12_u64, demand in any_demand()
    ) {
        let mut packing = Packing::new(offer.clone(), starting, left);
        let runners = (0..starting).map(|_| Usage::default()).collect();
        let mut one_by_one = OneByOne { offer, runners, left };
        let mut asked = 0;
        for (shape, tasks) in &demand {
            let packed = packing.take(shape, *tasks);
            prop_assert_eq!(packed, one_by_one.take(shape, *tasks));
            prop_assert!(packed.tasks <= *tasks && packed.runners <= packed.tasks);
            asked += packed.runners;
        }
        prop_assert!(asked <= left);
        prop_assert_eq!(packing.left(), left - asked);
    }
}

#[test]
fn a_million_tasks_are_counted_at_once() {
    let mut packing = Packing::new(offer(4, 64, 0, 100, false), 10, 1_000_000);
    assert_eq!(packing.take(&shape(1, 1, 0), 1_000_000), Packed { tasks: 1_000_000, runners: 249_990 });
}
