//! What needs a container engine. `make test` runs it where one answers and leaves it out, and says so, where none does.

mod binary;
#[path = "engine/door.rs"]
mod door;

#[path = "containers/docker_backend.rs"]
mod docker_backend;
#[path = "containers/restarts.rs"]
mod restarts;
