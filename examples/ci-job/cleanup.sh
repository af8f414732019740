#!/bin/bash
# cleanup_exec: what GitLab Runner calls after a job, however that ended. First whatever still runs in the pod is
# killed, then the rules are removed.
set -euo pipefail
cd "$(dirname "$0")"
. ./containers.sh

for round in 1 2 3; do # in case one makes another
	pids=$(ip netns pids pod)
	[[ ! $pids ]] || kill -KILL $pids || true
done
mesh-init remove -n pod
