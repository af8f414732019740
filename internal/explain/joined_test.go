package explain

import "testing"

func TestJoined(t *testing.T) {
	for want, reasons := range map[string][]string{
		"excluded port":                     {"excluded port"},
		"inside the pod":                    {"inside the pod", "inside the pod"},
		"from the proxy (by group or user)": {"from the proxy (by user)", "from the proxy (by group)"},
		"a name lookup over TCP or UDP, to a server of resolv.conf": { //
			"a name lookup over UDP, to a server of resolv.conf", "a name lookup over TCP, to a server of resolv.conf"},
		"excluded port or the tunnel port":                 {"excluded port", "the tunnel port"},
		"inside the pod or inside the pod, no name lookup": {"inside the pod, no name lookup", "inside the pod"},
	} {
		if got := joined(reasons); got != want {
			t.Errorf("%q: %q, want %q", reasons, got, want)
		}
	}
}
