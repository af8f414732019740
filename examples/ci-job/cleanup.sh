#!/bin/bash
# cleanup_exec: what GitLab Runner calls after a job, however that ended. First whatever still runs in the pod is
# killed, then the rules are removed.
set -euo pipefail
cd "$(dirname "$0")"
. ./containers.sh

while pids=$(ip netns pids pod) && [[ $pids ]]; do # again, in case one has made another
	kill -KILL $pids 2> /dev/null || true # one may have ended since
	sleep 0.1
done
mesh-init remove -n pod
