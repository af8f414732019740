package netns

import (
	"os"
	"strconv"
	"strings"
)

// Found is a network namespace that [List] has found, and what there is to say of whose it is.
type Found struct {
	// Path is the file that keeps it, such as /run/netns/web. Empty: none does.
	Path string
	// PID is a process in it: of a pod or a container, if there is one. 0: none is seen.
	PID int
	// Process is the name of that process's program, as it says itself.
	Process string
	// PodUID and Container are of what pod and container the process is. Empty: of none.
	PodUID, Container string

	id inode
}

// Spec is by what [Open] opens it.
func (f Found) Spec() string {
	if f.PID != 0 {
		return "pid:" + strconv.Itoa(f.PID)
	}
	return f.Path
}

// PodUID reads the UID of a pod from what /proc/PID/cgroup says, or returns "". A pod has a part of the path: of kubelet's
// driver cgroupfs (kubepods/burstable/podUID/…), or of systemd (kubepods-burstable-podUID.slice/…, with _ for -). The UID
// of a static pod is a hash. In a cgroup namespace of our own the path begins with /.. instead.
func PodUID(cgroup string) string {
	for line := range strings.Lines(cgroup) {
		// Its number, controllers and path, of which the last can have colons.
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		// The outermost: a kubelet inside a pod has pods of its own, which are that one's affair.
		for part := range strings.SplitSeq(parts[len(parts)-1], "/") {
			before, uid := cutLast(strings.TrimSuffix(part, ".slice"), "pod")
			uid = strings.ReplaceAll(uid, "_", "-")
			if (before == "" || strings.HasSuffix(before, "-")) && isPodUID(uid) {
				return uid
			}
		}
	}
	return ""
}

// cutLast cuts text around the last sep. Without one there is nothing after it.
func cutLast(text, sep string) (before, after string) {
	i := strings.LastIndex(text, sep)
	if i < 0 {
		return text, ""
	}
	return text[:i], text[i+len(sep):]
}

// isPodUID is whether text is a UID (RFC 9562), or the hash of a static pod.
func isPodUID(text string) bool {
	groups := strings.Split(text, "-")
	for i, g := range groups {
		if len(groups) == 5 && len(g) != []int{8, 4, 4, 4, 12}[i] || strings.Trim(g, "0123456789abcdef") != "" {
			return false
		}
	}
	return len(groups) == 5 || len(groups) == 1 && len(text) == 32
}

// PodName is what people call a pod.
type PodName struct{ Namespace, Name string }

// PodLogs is where kubelet keeps the logs of pods, each in a directory NAMESPACE_NAME_UID.
const PodLogs = "/var/log/pods"

// PodNames returns the names of the pods that kubelet keeps logs of in a directory, by their UIDs. It needs neither
// kubelet nor a container runtime to answer, and is the same for all of them. Where there is no such directory, as inside
// a pod, there are no names.
func PodNames(logs string) map[string]PodName {
	entries, err := os.ReadDir(logs)
	if err != nil {
		return nil
	}
	names := make(map[string]PodName, len(entries))
	for _, e := range entries {
		if parts := strings.Split(e.Name(), "_"); len(parts) == 3 { // which no name has in it
			names[parts[2]] = PodName{parts[0], parts[1]}
		}
	}
	return names
}
