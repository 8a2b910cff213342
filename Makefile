# The verbs people use. Each line also runs by hand.

COMPOSE := $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)
NEXTEST := $(shell cargo nextest --version >/dev/null 2>&1 && echo yes)
# The stories of the back end `docker` need a container engine; without one they are left out.
ENGINE := $(shell docker info >/dev/null 2>&1 && echo yes)
# Those of limits need a control group (v2) with cpu and memory, named by LONGSHORE_CGROUP, or a user-mode Linux, which has one.
UML := $(shell command -v linux.uml)
NEITHER_CONTAINERS = $(if $(ENGINE),,| binary(containers) | test(engine_answers))
NOR_LIMITS = $(if $(LONGSHORE_CGROUP),,| binary(limits))

# Everything is tested, and built once for that: also what is left out of a plain build.
FEATURES := --features kubernetes

.PHONY: demo test fast check sim bench up tools

demo:            ## the main job, in one process on real parts
	cargo run --release -- demo

test: tools      ## everything; brings what the tests need
ifeq ($(NEXTEST),yes)
	cargo nextest run $(FEATURES) --no-fail-fast -E 'not (none() $(NEITHER_CONTAINERS) $(NOR_LIMITS))'
else
	cargo test $(FEATURES) --no-fail-fast -- $(if $(ENGINE),,--skip docker_backend:: --skip engine_answers) \
		$(if $(LONGSHORE_CGROUP),,--skip control_groups::)
endif
ifeq ($(LONGSHORE_CGROUP),)
	$(if $(UML),scripts/limits.sh,@echo "Neither LONGSHORE_CGROUP nor linux.uml: the stories of limits of cpu and memory were left out.")
endif
ifneq ($(ENGINE),yes)
	@echo "No container engine answers: the stories of the back end docker were left out."
endif

tools:           ## a nats-server that is new enough, and a Python with what the examples need, for the tests
	@scripts/nats-server.sh
	@scripts/python-examples.sh
ifeq ($(ENGINE),yes)
	@scripts/test-image.sh
endif

fast:            ## the decisions alone, in seconds
	cargo test $(FEATURES) --test behaviour --test submission --test runner_session --test architecture

check:           ## what a change must pass
	cargo fmt --check
	cargo clippy $(FEATURES) --all-targets -- -D warnings
	$(MAKE) test

sim:             ## more seeds: make sim SEEDS=2000
	LONGSHORE_SEEDS=$(or $(SEEDS),2000) cargo test --release --test simulation -- --nocapture

bench:           ## the figures the README names
	cargo run --release -- bench
	cargo bench

up:              ## two replicas on NATS, runners, Prometheus and Grafana in containers (see docker-compose.yml)
	$(COMPOSE) up --build
