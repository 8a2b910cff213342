#!/bin/sh
# Runs the stories of tests/limits.rs in a kernel of their own, where the control groups (v2) have cpu and memory whatever
# this machine has: a user-mode Linux (Debian: user-mode-linux) on this machine's files. It needs no privileges.
# An argument is the filter of the test binary. They run as the user STORIES_AS, or as whoever owns these files.
set -eu

if [ $$ = 1 ]; then
    # Inside, as the first process. Not set -e: whatever happens, the kernel is to end.
    set +e
    mount -t proc proc /proc
    mount -t sysfs sys /sys
    mount -t tmpfs tmp /tmp
    mount -t cgroup2 cgroup /sys/fs/cgroup
    echo "+cpu +memory" > /sys/fs/cgroup/cgroup.subtree_control
    # As a service manager does it: the process stands alone in a control group that belongs to its user.
    export LONGSHORE_CGROUP=/sys/fs/cgroup/stories
    mkdir "$LONGSHORE_CGROUP"
    cd "$LONGSHORE_CGROUP" && chown "$STORIES_AS" . cgroup.procs cgroup.subtree_control cgroup.threads
    (
        sh -c 'echo $PPID' > "$LONGSHORE_CGROUP/cgroup.procs"
        cd "$STORIES_IN" && exec setpriv --reuid="$STORIES_AS" --clear-groups "$STORIES" --test-threads=1 ${STORIES_NAMED:-}
    )
    echo "stories ended: $?"
    echo o > /proc/sysrq-trigger
    while :; do sleep 1; done
fi

cd "$(dirname "$0")/.."
uml=${UML:-linux.uml}
command -v "$uml" >/dev/null || { echo "no $uml: install user-mode-linux, or name the kernel in UML" >&2; exit 1; }
stories=$(cargo test --features kubernetes --no-run --test limits 2>&1 | sed -n 's/.*Executable.*(\(.*\))$/\1/p')
[ -n "$stories" ] || { echo "tests/limits.rs does not compile: cargo test --no-run --test limits" >&2; exit 1; }
said=$(mktemp)
trap 'rm -f "$said"' EXIT
# A kernel that does not come up, or does not end, is no reason to wait for ever.
timeout "${STORIES_WITHIN:-300}" "$uml" mem=1G root=none rootfstype=hostfs rootflags=/ ro quiet con=null con0=null,fd:1 init="$PWD/scripts/limits.sh" \
    PATH="$PATH" STORIES_IN="$PWD" STORIES="$(realpath "$stories")" STORIES_NAMED="${1:-}" \
    STORIES_AS="${STORIES_AS:-$(stat -c %u .)}" </dev/null 2>/dev/null | tee "$said"
grep -q "^stories ended: 0" "$said"
