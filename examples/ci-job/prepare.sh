#!/bin/bash
# prepare_exec: what GitLab Runner calls before a job. The sidecar is up and the rules are in force, and that is proven,
# before a line of the job runs. If anything fails, so does this, and there is no job.
set -euo pipefail
cd "$(dirname "$0")"
. ./containers.sh

(cd ../sandbox && sidecar haproxy -db -f haproxy.cfg) > haproxy.log & # where its lists are
sidecar dnsmasq --keep-in-foreground --conf-file=../sandbox/dnsmasq.conf 2> dnsmasq.log &
mesh-init apply -n pod --config ../sandbox/sandbox.yaml --exclude-uids $helper > mesh-init.log
mesh-init verify -n pod --wait 10s >> mesh-init.log
echo "the rules are in force"
