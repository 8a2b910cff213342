//! The back end `kubernetes` against a scripted cluster, over real HTTP. No real cluster is used: what stands here is how the
//! back end takes a cluster that keeps to Kubernetes' documented behaviour.

mod binary;

#[path = "kubernetes/api.rs"]
mod api;
#[path = "kubernetes/attempts.rs"]
mod attempts;
#[path = "kubernetes/cluster.rs"]
mod cluster;
#[path = "kubernetes/controllers.rs"]
mod controllers;
#[path = "kubernetes/leases.rs"]
mod leases;
#[path = "kubernetes/rules.rs"]
mod rules;
#[path = "kubernetes/trouble.rs"]
mod trouble;
#[path = "kubernetes/whole.rs"]
mod whole;
#[path = "kubernetes/words.rs"]
mod words;
