//go:build linux && gvisor

package gvisor

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// Addresses of the sandbox and of the node, its peer. runsc gives it those of IPv4.
const (
	pod4, node4 = "192.168.10.2", "192.168.10.3"
	pod6, node6 = "fd00:244::7", "fd00:244::9"
)

// The sandbox says a word when it waits for the node, and goes on when the node says one.
const (
	readyWord = "READY FOR THE NODE"
	goOn      = "go on\n"
)

// sandbox runs one of TestInside in gVisor. meanwhile is called each time that it waits for the node.
func sandbox(t *testing.T, name string, meanwhile ...func(t *testing.T)) {
	t.Helper()
	if os.Getenv(roleEnv) != "node" {
		t.Skip("it is for the node")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Getenv(runscEnv), "-ignore-cgroups", "-network=sandbox", "-net-raw=true", "-root="+t.TempDir(),
		"do", "-force-overlay=false", self, "-test.v", "-test.run=^TestInside$/^"+name+"$")
	cmd.Env = append(os.Environ(), roleEnv+"=sandbox")
	var said, errors bytes.Buffer
	cmd.Stderr = &errors
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(io.TeeReader(out, &said))
	for lines.Scan() {
		if lines.Text() != readyWord {
			continue
		}
		if len(meanwhile) > 0 {
			meanwhile[0](t)
			meanwhile = meanwhile[1:]
		}
		if _, err := io.WriteString(in, goOn); err != nil {
			t.Error(err)
		}
	}
	_, _ = io.Copy(io.Discard, out)
	if err := cmd.Wait(); err != nil || !strings.Contains(said.String(), "--- PASS: TestInside/"+name) ||
		strings.Contains(said.String(), "--- SKIP") || len(meanwhile) > 0 {
		t.Errorf("%v\n%s%s", err, said.String(), errors.String())
	}
}

// join gives the node an address of IPv6 beside the sandbox's.
func join(t *testing.T) {
	t.Helper()
	all, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			if !strings.HasPrefix(a.String(), node4+"/") {
				continue
			}
			out, err := exec.Command("ip", "-6", "addr", "add", node6+"/64", "dev", i.Name, "nodad").CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			return
		}
	}
	t.Fatalf("no interface has %s", node4)
}

// says fails unless a server answers a connection of the node's so.
func says(t *testing.T, addr, want string) {
	t.Helper()
	got, err := dial("tcp", addr)
	if err != nil || strings.TrimSpace(got) != want {
		t.Errorf("%s: %q, %v; want %q", addr, got, err, want)
	}
}

func TestVerbs(t *testing.T)      { sandbox(t, "verbs") }
func TestDrift(t *testing.T)      { sandbox(t, "drift") }
func TestFailed(t *testing.T)     { sandbox(t, "failed") }
func TestRefused(t *testing.T)    { sandbox(t, "refused") }
func TestRoom(t *testing.T)       { sandbox(t, "room") }
func TestDeep(t *testing.T)       { sandbox(t, "deep") }
func TestVerify(t *testing.T)     { sandbox(t, "verify") }
func TestPrivileges(t *testing.T) { sandbox(t, "privileges") }

// TestTraffic: what the sandbox sends, and what the node sends there, meets its fate, in both families.
func TestTraffic(t *testing.T) {
	if os.Getenv(roleEnv) != "node" {
		t.Skip("it is for the node")
	}
	if err := serve("node", "8080"); err != nil {
		t.Fatal(err)
	}
	inbound := func(t *testing.T) {
		for _, pod := range []string{pod4, pod6} {
			for port, want := range map[string]string{
				"80":    "proxy 15006 " + net.JoinHostPort(pod, "80"), // captured
				"8080":  "proxy 15006 " + net.JoinHostPort(pod, "8080"),
				"15020": "app 15020 " + "-", // an excluded port
				"15008": "app 15008 " + "-", // the tunnel port
			} {
				says(t, net.JoinHostPort(pod, port), want)
			}
		}
		// What a neighbour sends here for somebody else is nobody's (I9).
		for _, other := range [][]string{{"203.0.113.5", pod4}, {"2001:db8:5::5", pod6}} {
			if out, err := exec.Command("ip", "route", "add", other[0], "via", other[1]).CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
			conn, err := net.DialTimeout("tcp", net.JoinHostPort(other[0], "80"), time.Second)
			if err == nil {
				conn.Close()
				t.Errorf("a connection to %s, which is not the pod's, is accepted", other[0])
			}
		}
	}
	sandbox(t, "traffic", func(t *testing.T) { join(t) }, inbound)
}
