# Words for the commands of the examples. ../pod.sh reads them.

# Who runs a command: somebody in the world, the app, or the sidecar. The app has no privilege, and gets none.
world() { inside world "$@"; }
app() { inside pod setpriv --reuid 1000 --regid 1000 --clear-groups --bounding-set -all --no-new-privs "$@"; }
sidecar() { inside pod setpriv --reuid 1337 --regid 1337 --clear-groups "$@"; }

# With & there is no shell between, so that kill %1 ends the command.
inside() {
	((BASH_SUBSHELL == 0)) || exec ip netns exec "$@"
	ip netns exec "$@"
}

# Ends all processes in both namespaces, and takes these away, with what pod.sh has put into /etc/netns.
clean_up() {
	local pids
	pids=$(ip netns pids pod; ip netns pids world)
	[[ ! $pids ]] || kill $pids
	ip netns delete pod
	ip netns delete world
	rm -f /etc/netns/pod/resolv.conf
	rmdir --ignore-fail-on-non-empty /etc/netns/pod /etc/netns
}
