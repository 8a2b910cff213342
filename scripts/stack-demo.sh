#!/bin/sh
# What the producer of docker-compose.yml does: one job, then a build that submits two jobs of its own and waits for
# them. Ends with 0 once all have ended well. LONGSHORE_URL names a dispatcher.
set -eu
longshore submit --wait -- sh -c 'echo "hello from $LONGSHORE_TASK"'
longshore submit --wait - <<TASK
{"id": "demo-$(date +%s)", "kind": "build", "jobs": [{"resources": {"cpu": 1}}],
 "spec": {"command": ["sh", "-euc",
   "for n in 1 2; do longshore submit --id \$LONGSHORE_TASK-job-\$n --build \$LONGSHORE_TASK --wait -- sleep 1; done"]}}
TASK
longshore ps
