#!/bin/bash
# run_exec: what GitLab Runner calls for each stage of a job, with a script and the stage's name. The runner's own
# stages are the helper's. All others, known or not, are the job's.
set -uo pipefail
. "$(dirname "$0")/containers.sh"

case $2 in
get_sources | restore_cache | download_artifacts | archive_cache* | upload_artifacts*) who=$helper ;;
*) who=$job ;;
esac
container $who bash < "$1" || exit "${BUILD_FAILURE_EXIT_CODE:-1}"
