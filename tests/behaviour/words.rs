//! Words to say what is submitted and who registers.

use std::sync::Arc;
use std::time::Duration;

use longshore::model::*;
use uuid::Uuid;

pub fn id(text: &str) -> Id {
    Id::parse(text).expect("a legal name")
}

pub fn artifact(text: &str) -> ArtifactId {
    ArtifactId::parse(text).expect("a legal name")
}

pub fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const GIB: u64 = 1 << 30;

/// A task to submit, with what a story wants to say of it.
#[derive(Clone)]
pub struct TaskBuilder(pub NewTask);

fn new_task(name: &str, kind: Kind) -> TaskBuilder {
    let shape = Shape {
        kind,
        queue: id("default"),
        resources: Resources::new(1000, GIB),
        arch: "".into(),
        os: "".into(),
        labels: Default::default(),
        tolerations: Default::default(),
        group: None,
    };
    let limits = Limits {
        max_attempts: 3,
        retries: 0,
        timeout: None,
        not_before: None,
        expires_in: None,
        if_unplaceable: IfUnplaceable::Fail,
    };
    TaskBuilder(NewTask {
        id: id(name),
        shape: Arc::new(shape),
        tenant: id("default"),
        priority: 0,
        build: None,
        jobs: Arc::new([]),
        grouping: Default::default(),
        limits: Arc::new(limits),
        artifacts: None,
        content: Uuid::from_u128(1),
        traceparent: None,
        body: format!("{{\"id\":\"{name}\"}}").into(),
    })
}

pub fn task(name: &str) -> TaskBuilder {
    new_task(name, Kind::Job)
}

/// A build whose jobs ask for one cpu unless the story says otherwise.
pub fn build(name: &str) -> TaskBuilder {
    let built = new_task(name, Kind::Build);
    let job = task("any").shape();
    built.jobs([job])
}

impl TaskBuilder {
    pub fn change(mut self, change: impl FnOnce(&mut NewTask)) -> Self {
        change(&mut self.0);
        self
    }

    fn change_shape(self, change: impl FnOnce(&mut Shape)) -> Self {
        self.change(|task| change(Arc::make_mut(&mut task.shape)))
    }

    fn change_limits(self, change: impl FnOnce(&mut Limits)) -> Self {
        self.change(|task| change(Arc::make_mut(&mut task.limits)))
    }

    pub fn shape(&self) -> Shape {
        Shape::clone(&self.0.shape)
    }

    pub fn cpu(self, cores: u64) -> Self {
        self.change_shape(|shape| shape.resources.cpu = cores * 1000)
    }

    pub fn memory(self, gib: u64) -> Self {
        self.change_shape(|shape| shape.resources.memory = gib * GIB)
    }

    pub fn resource(self, name: &str, amount: u64) -> Self {
        self.change_shape(|shape| shape.resources.other.extend([(name.into(), amount)]))
    }

    pub fn arch(self, arch: &str) -> Self {
        self.change_shape(|shape| shape.arch = arch.into())
    }

    pub fn queue(self, queue: &str) -> Self {
        self.change_shape(|shape| shape.queue = id(queue))
    }

    pub fn label(self, name: &str, value: &str) -> Self {
        self.change_shape(|shape| shape.labels.extend([(name.into(), value.into())]))
    }

    pub fn tolerates(self, taint: &str) -> Self {
        self.change_shape(|shape| shape.tolerations.extend([taint.into()]))
    }

    /// Makes it a task of a group.
    pub fn group(self, group: &str, terms: Terms) -> Self {
        self.change(|task| task.grouping.terms = terms).change_shape(|shape| shape.group = Some(id(group)))
    }

    /// Makes it a task of an ordered group, at this place.
    pub fn step(self, group: &str, terms: Terms, index: u32) -> Self {
        let terms = Terms { ordered: true, ..terms };
        self.group(group, terms).change(|task| task.grouping.index = Some(index))
    }

    pub fn jobs(self, shapes: impl IntoIterator<Item = Shape>) -> Self {
        self.change(|task| task.jobs = shapes.into_iter().map(Arc::new).collect())
    }

    pub fn of(self, build: &str) -> Self {
        self.change(|task| task.build = Some(id(build)))
    }

    fn change_artifacts(self, change: impl FnOnce(&mut Artifacts)) -> Self {
        self.change(|task| {
            let mut own = task.artifacts.as_deref().cloned().unwrap_or_default();
            change(&mut own);
            task.artifacts = Artifacts::of(own.inputs, own.output);
        })
    }

    /// The artifact it makes.
    pub fn makes(self, output: &str) -> Self {
        self.change_artifacts(|own| own.output = Some(artifact(output)))
    }

    /// The artifacts it reads.
    pub fn reads(self, inputs: &[&str]) -> Self {
        self.change_artifacts(|own| own.inputs = inputs.iter().map(|input| artifact(input)).collect())
    }

    pub fn priority(self, priority: i32) -> Self {
        self.change(|task| task.priority = priority)
    }

    pub fn content(self, content: u128) -> Self {
        self.change(|task| task.content = Uuid::from_u128(content))
    }

    pub fn attempts(self, attempts: u32) -> Self {
        self.change_limits(|limits| limits.max_attempts = attempts)
    }

    pub fn retries(self, retries: u32) -> Self {
        self.change_limits(|limits| limits.retries = retries)
    }

    pub fn timeout(self, span: Duration) -> Self {
        self.change_limits(|limits| limits.timeout = Some(span))
    }

    pub fn expires_in(self, span: Duration) -> Self {
        self.change_limits(|limits| limits.expires_in = Some(span))
    }

    pub fn not_before(self, at: Time) -> Self {
        self.change_limits(|limits| limits.not_before = Some(at))
    }

    pub fn if_unplaceable(self, choice: IfUnplaceable) -> Self {
        self.change_limits(|limits| limits.if_unplaceable = choice)
    }
}

/// A runner to register.
#[derive(Clone)]
pub struct RunnerBuilder(pub Registration);

pub fn runner(name: &str) -> RunnerBuilder {
    let offer = Offer {
        kinds: [Kind::Job, Kind::Build].into(),
        queues: Default::default(),
        arch: "amd64".into(),
        os: "linux".into(),
        labels: Default::default(),
        taints: Default::default(),
        group: None,
        resources: Some(Resources::new(4000, 16 * GIB)),
        slots: 100,
        open: false,
    };
    RunnerBuilder(Registration {
        runner: id(name),
        incarnation: "first".into(),
        offer: Arc::new(offer),
        cost: 1.0,
        class: None,
        intent: None,
        running: Vec::new(),
        artifacts: None,
        last_seen: None,
        version: "".into(),
    })
}

impl RunnerBuilder {
    fn change(mut self, change: impl FnOnce(&mut Offer)) -> Self {
        change(Arc::make_mut(&mut self.0.offer));
        self
    }

    fn amounts(self, change: impl FnOnce(&mut Resources)) -> Self {
        self.change(|offer| change(offer.resources.as_mut().expect("a divisible runner")))
    }

    pub fn cpu(self, cores: u64) -> Self {
        self.amounts(|has| has.cpu = cores * 1000)
    }

    pub fn memory(self, gib: u64) -> Self {
        self.amounts(|has| has.memory = gib * GIB)
    }

    pub fn resource(self, name: &str, amount: u64) -> Self {
        self.amounts(|has| has.other.extend([(name.into(), amount)]))
    }

    pub fn opaque(self, slots: u32) -> Self {
        self.change(|offer| {
            offer.resources = None;
            offer.slots = slots;
        })
    }

    pub fn slots(self, slots: u32) -> Self {
        self.change(|offer| offer.slots = slots)
    }

    pub fn arch(self, arch: &str) -> Self {
        self.change(|offer| offer.arch = arch.into())
    }

    pub fn label(self, name: &str, value: &str) -> Self {
        self.change(|offer| offer.labels.extend([(name.into(), value.into())]))
    }

    pub fn taint(self, taint: &str) -> Self {
        self.change(|offer| offer.taints.extend([taint.into()]))
    }

    /// Takes tasks of this group alone.
    pub fn dedicated(self, group: &str) -> Self {
        self.change(|offer| offer.group = Some(id(group)))
    }

    pub fn kinds(self, kinds: &[Kind]) -> Self {
        self.change(|offer| offer.kinds = kinds.iter().copied().collect())
    }

    pub fn queues(self, queues: &[&str]) -> Self {
        self.change(|offer| offer.queues = queues.iter().map(|queue| id(queue)).collect())
    }

    pub fn cost(mut self, cost: f64) -> Self {
        self.0.cost = cost;
        self
    }

    pub fn incarnation(mut self, incarnation: &str) -> Self {
        self.0.incarnation = incarnation.into();
        self
    }

    pub fn holding(mut self, artifacts: &[&str]) -> Self {
        self.0.artifacts = Some(artifacts.iter().map(|name| artifact(name)).collect());
        self
    }

    pub fn running(mut self, held: &[Held]) -> Self {
        self.0.running = held.to_vec();
        self
    }
}
