# What the three scripts have in common.
. "$(dirname "$0")/../words.sh"

job=1000    # the user of the job's scripts
helper=2000 # the user of the runner's own

# container runs a command in the pod's network as a user without any privilege. It is a PID namespace of its own, so
# that nothing of it goes on when the command has ended.
container() {
	local user=$1
	shift
	ip netns exec pod unshare --pid --fork --kill-child --mount-proc \
		env -i PATH="$PATH" setpriv --reuid "$user" --regid "$user" --clear-groups --bounding-set -all --no-new-privs "$@"
}
