//! What the kernel lets each process of an attempt take (`setrlimit`).
//!
//! Law: no process of an attempt leaves a core file, and none takes more than the operator said. What was not said
//! is as the runner has it.

use std::io;

use rustix::process::{Resource, Rlimit as Bounds, getrlimit, setrlimit};

use crate::model::resources::parse_memory;

/// The limits an operator may set: name, what it bounds, and whether it counts bytes.
const NAMES: [(&str, Resource, bool); 4] = [
    ("nofile", Resource::Nofile, false),
    ("nproc", Resource::Nproc, false),
    ("fsize", Resource::Fsize, true),
    ("as", Resource::As, true),
];

/// A limit that no process of an attempt can raise again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rlimit {
    name: &'static str,
    resource: Resource,
    most: u64,
}

/// Core files would fill the disk, and hold what the work held.
pub(super) const NO_CORE: Rlimit = Rlimit { name: "core", resource: Resource::Core, most: 0 };

impl Rlimit {
    /// Reads `NAME=VALUE`: `nofile` and `nproc` are counts, `fsize` and `as` bytes, or like `512MiB`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE, like nofile=1024")?;
        let Some((name, resource, bytes)) = NAMES.into_iter().find(|(known, ..)| *known == name) else {
            let known = NAMES.map(|(known, ..)| known).join(", ");
            return Err(format!("no limit is called {name:?}; there are {known}"));
        };
        let most = if bytes {
            parse_memory(value).map_err(|why| format!("{name}: {why}"))?
        } else {
            value.parse().map_err(|_| format!("{name}: expected a whole number, like 1024"))?
        };
        Ok(Self { name, resource, most })
    }

    /// Raises this process's own bound where it is lower, so that attempts can be given what was said.
    pub(super) fn make_room(self) -> Result<(), String> {
        let own = getrlimit(self.resource);
        let Some(maximum) = own.maximum.filter(|maximum| *maximum < self.most) else { return Ok(()) };
        setrlimit(self.resource, Bounds { maximum: Some(self.most), ..own }).map_err(|why| {
            let Self { name, most, .. } = self;
            format!("{name}={most} is more than the {maximum} this runner may have itself: {why}; raise that first")
        })
    }

    /// Puts it on this process. Allocates nothing and locks nothing, so that a process that was just forked may call it.
    pub(super) fn apply(self) -> io::Result<()> {
        let most = Some(self.most);
        Ok(setrlimit(self.resource, Bounds { current: most, maximum: most })?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_counts_or_bytes_by_their_name() {
        let of = |name, resource, most| Ok(Rlimit { name, resource, most });
        assert_eq!(Rlimit::parse("nofile=64"), of("nofile", Resource::Nofile, 64));
        assert_eq!(Rlimit::parse("nproc=7"), of("nproc", Resource::Nproc, 7));
        assert_eq!(Rlimit::parse("fsize=2MiB"), of("fsize", Resource::Fsize, 2 << 20));
        assert_eq!(Rlimit::parse("as=4096"), of("as", Resource::As, 4096));
        for (text, why) in [
            ("nofile", "expected NAME=VALUE"),
            ("files=1", "no limit is called \"files\"; there are nofile, nproc, fsize, as"),
            ("nofile=1MiB", "nofile: expected a whole number"),
            ("fsize=big", "fsize: expected bytes"),
        ] {
            let said = Rlimit::parse(text).expect_err("it is refused");
            assert!(said.starts_with(why), "{said}");
        }
    }
}
