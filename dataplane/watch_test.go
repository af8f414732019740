//go:build linux

package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// observed is a watch that is at work, and what it has told.
type observed struct {
	t       *testing.T
	mu      sync.Mutex
	records []WatchRecord
	end     func() (WatchSummary, error)
}

func observe(t *testing.T, pod Pod, repair bool) *observed {
	t.Helper()
	schema, err := jsonschema.NewCompiler().Compile("../docs/watch.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	o := &observed{t: t}
	type result struct {
		s   WatchSummary
		err error
	}
	done := make(chan result, 1)
	go func() {
		s, err := pod.Watch(ctx, WatchOptions{Repair: repair, Tell: func(r WatchRecord) error {
			isOf(t, schema, r)
			o.mu.Lock()
			defer o.mu.Unlock()
			o.records = append(o.records, r)
			return nil
		}})
		done <- result{s, err}
	}()
	o.end = func() (WatchSummary, error) {
		cancel()
		r := <-done
		return r.s, r.err
	}
	t.Cleanup(cancel)
	return o
}

// until waits for a record.
func (o *observed) until(what string, is func(WatchRecord) bool) WatchRecord {
	o.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		o.mu.Lock()
		for _, r := range o.records {
			if is(r) {
				o.mu.Unlock()
				return r
			}
		}
		text := fmt.Sprintf("%d records", len(o.records))
		o.mu.Unlock()
		select {
		case <-deadline:
			o.t.Fatalf("%s: not told among %s", what, text)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func isState(word string) func(WatchRecord) bool {
	return func(r WatchRecord) bool { return r.State != nil && r.State.State == word }
}

// TestWatch: who changes rules, what drift there is, that it is repaired, and what becomes of connections, by every
// backend.
func TestWatch(t *testing.T) {
	for _, backend := range concrete() {
		t.Run(string(backend), func(t *testing.T) {
			needPrograms(t)
			netlab.RequireProgram(t, "nft")
			lab := netlab.NewT(t, netlab.Options{})
			pod := Pod{NetNS: lab.Pod.Path(), Backend: backend}
			c := intercept.Default()
			c.Outbound.ExcludePorts = intercept.Ports{intercept.Port(5432)}
			if _, err := pod.Watch(t.Context(), WatchOptions{}); !errors.Is(err, ruleset.ErrNotIntercepted) {
				t.Errorf("without rules: %v", err)
			}
			if _, err := pod.Apply(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
				t.Fatal(err)
			}
			o := observe(t, Pod{NetNS: pod.NetNS}, true) // the backend is that of the rules
			o.until("at first", isState("ok"))

			user := &intercept.Owner{UID: 1000, GID: 1000}
			for _, to := range []string{"203.0.113.10", "2001:db8:beef::10"} {
				dst := netip.MustParseAddr(to)
				for _, tt := range []struct {
					flow       netlab.Flow
					captured   bool
					uncaptured bool
					rule       ruleset.RuleID
				}{
					{netlab.Flow{Protocol: intercept.TCP, Dst: netip.AddrPortFrom(dst, 80), Owner: user}, true, false, "O12"},
					{netlab.Flow{Protocol: intercept.TCP, Dst: netip.AddrPortFrom(dst, 5432), Owner: user}, false, true, "O5.ports"},
					{netlab.Flow{Protocol: intercept.UDP, Dst: netip.AddrPortFrom(dst, 443), Owner: user}, false, true, "O14"},
					{netlab.Flow{Protocol: intercept.TCP, Dst: netip.AddrPortFrom(dst, 81), Owner: &intercept.Owner{UID: 1337, GID: 1337}},
						false, false, "O4.uid"},
				} {
					conn, _, err := lab.Dial(tt.flow)
					if err != nil {
						t.Fatal(err)
					}
					r := o.until(tt.flow.String(), func(r WatchRecord) bool { return r.Flow != nil && r.Flow.Dst == tt.flow.Dst })
					if conn != nil {
						conn.Close()
					}
					f := r.Flow
					if f.Captured != tt.captured || f.Uncaptured != tt.uncaptured || f.Unexpected || f.Sender == nil ||
						f.Sender.UID != tt.flow.Owner.UID || f.Direction != "outbound" {
						t.Errorf("%s: %+v, sender %+v", tt.flow, f, f.Sender)
					}
					if f.Rule != tt.rule {
						t.Errorf("%s: by %s, want %s", tt.flow, f.Rule, tt.rule)
					}
				}
			}
			if _, err := lab.Send(netlab.Flow{From: netlab.FromPeer, Protocol: intercept.TCP,
				Dst: netip.MustParseAddrPort("10.244.0.5:8080")}); err != nil {
				t.Fatal(err)
			}
			r := o.until("inbound", func(r WatchRecord) bool { return r.Flow != nil && r.Flow.Dst.Port() == 8080 })
			if r.Flow.Direction != "inbound" || !r.Flow.Captured || r.Flow.Rule != "I7" || r.Flow.To.Port() != 15006 {
				t.Errorf("inbound: %+v", r.Flow)
			}

			// The proxy's connection, which conntrack forgets, is picked up by what is sent next.
			conn, _, err := lab.Dial(netlab.Flow{Protocol: intercept.TCP, Dst: netip.MustParseAddrPort("203.0.113.10:9100"),
				Owner: &intercept.Owner{UID: 1337, GID: 1337}})
			if err == nil {
				err = lab.Pod.FlushEntries()
			}
			if err == nil {
				_, err = conn.Write([]byte("more"))
			}
			if err != nil {
				t.Fatal(err)
			}
			r = o.until("resumed", func(r WatchRecord) bool { return r.Flow != nil && r.Flow.Resumed })
			if r.Flow.Captured || r.Flow.Uncaptured || r.Flow.Unexpected || r.Flow.Rule != "" {
				t.Errorf("resumed: %+v", r.Flow)
			}
			conn.Close()

			// Somebody breaks the rules.
			words, by := []string{"nft", "delete", "table", "inet", "mesh_intercept"}, "nft"
			if backend != BackendNFT {
				by = string(backend)
				words = []string{by, "-t", "nat", "-F", "OUTPUT"}
			}
			err = lab.Pod.Do(func() error {
				out, err := exec.Command(words[0], words[1:]...).CombinedOutput()
				if err != nil {
					return fmt.Errorf("%s: %w: %s", words, err, out)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			o.until("drift", func(r WatchRecord) bool { return isState("drifted")(r) || isState("gone")(r) })
			o.until("repair", isState("repaired"))
			if backend != BackendIPTablesLegacy { // of which the kernel tells nothing
				r := o.until("who", func(r WatchRecord) bool { return r.Rules != nil && strings.HasPrefix(r.Rules.By, by) })
				if r.Rules.PID == 0 || r.Rules.Tables[0].Removed == 0 {
					t.Errorf("%+v", r.Rules)
				}
			}
			summary, err := o.end()
			if err != nil || summary.Captured == 0 || summary.Uncaptured != 4 || summary.Lost != 0 {
				t.Errorf("%+v, %v", summary, err)
			}
			if diffs, err := pod.Check(t.Context(), c); err != nil || len(diffs) > 0 {
				t.Errorf("after the repair: %v, %v", diffs, err)
			}
		})
	}
}

// TestWatchWithoutRules: when our rules are removed it says so, goes on telling of connections, and tells when there are
// rules again, by whatever backend. What keeps connection tracking at work goes with it.
func TestWatchWithoutRules(t *testing.T) {
	for _, backend := range concrete() {
		t.Run(string(backend), func(t *testing.T) {
			needPrograms(t)
			netlab.RequireProgram(t, "nft")
			lab := netlab.NewT(t, netlab.Options{})
			pod := Pod{NetNS: lab.Pod.Path(), Backend: backend, By: "mesh-init v1.2.3"}
			c := intercept.Default()
			if _, err := pod.Apply(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			o := observe(t, Pod{NetNS: pod.NetNS}, false)
			o.until("at first", isState("ok"))
			if _, err := pod.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
			if r := o.until("without rules", isState("gone")); r.State.Detail != "nothing is captured" {
				t.Errorf("%+v", r.State)
			}
			for i, to := range []string{"203.0.113.10:80", "[2001:db8:beef::10]:80"} {
				flow := netlab.Flow{Protocol: intercept.TCP, Dst: netip.MustParseAddrPort(to),
					Owner: &intercept.Owner{UID: 1000, GID: 1000}}
				conn, _, err := lab.Dial(flow)
				if err != nil {
					t.Fatal(err)
				}
				r := o.until(to, func(r WatchRecord) bool { return r.Flow != nil && r.Flow.Dst == flow.Dst })
				if conn != nil {
					conn.Close()
				}
				if f := r.Flow; f.Captured || !f.Uncaptured || !f.Unexpected || f.Rules != "gone" || f.Rule != "O12" {
					t.Errorf("%d: %+v", i, f)
				}
			}
			pod.Backend = BackendIPTablesLegacy // of which the kernel does not tell
			if _, err := pod.Apply(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			o.until("rules again", func(r WatchRecord) bool {
				return isState("ok")(r) && r.State.Detail == "the same configuration was applied by mesh-init v1.2.3"
			})
			c.Outbound.ExcludePorts = intercept.Ports{intercept.Port(5432)}
			if _, err := pod.Apply(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			o.until("other rules", isState("replaced"))
			if _, err := pod.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
			o.until("without rules again", func(r WatchRecord) bool {
				gone := 0
				for _, r := range o.records {
					if isState("gone")(r) {
						gone++
					}
				}
				return gone == 2
			})
			summary, err := o.end()
			if err != nil || summary.State != "gone" || summary.Uncaptured != 2 {
				t.Errorf("%+v, %v", summary, err)
			}
			for _, r := range o.records {
				if r.Rules != nil && strings.Contains(r.Rules.Tables[0].Name, "_watch_") {
					t.Errorf("it tells of itself: %+v", r.Rules)
				}
			}
			if err := lab.Pod.Do(func() error {
				out, err := exec.Command("nft", "list", "tables").CombinedOutput()
				if strings.Contains(string(out), "mesh_intercept") {
					t.Errorf("left behind: %s", out)
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestWatchFlood: 50,000 connections at once are counted, or said to be lost, in bounded memory.
func TestWatchFlood(t *testing.T) {
	lab := netlab.NewT(t, netlab.Options{})
	pod := Pod{NetNS: lab.Pod.Path()}
	if _, err := pod.Apply(t.Context(), intercept.Default()); err != nil {
		t.Fatal(err)
	}
	o := observe(t, pod, false)
	o.until("at first", isState("ok"))
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const many = 50_000
	fd, err := lab.Pod.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, &intercept.Owner{UID: 1000, GID: 1000})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for i := range many {
		to := &unix.SockaddrInet4{Addr: [4]byte{203, 0, 113, byte(i % 250)}, Port: 1024 + i/250}
		if err := unix.Sendto(fd, nil, unix.MSG_DONTWAIT, to); err != nil && !errors.Is(err, unix.EAGAIN) &&
			!errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.EPERM) {
			t.Fatal(err)
		}
	}
	last := &unix.SockaddrInet4{Addr: [4]byte{203, 0, 113, 251}, Port: 9}
	if err := unix.Sendto(fd, nil, 0, last); err != nil {
		t.Fatal(err)
	}
	// Each second of which not all is told ends with how much there was.
	o.until("more", func(r WatchRecord) bool { return r.More != nil })
	seen := func() (n int) {
		o.mu.Lock()
		defer o.mu.Unlock()
		for _, r := range o.records {
			switch {
			case r.Flow != nil:
				n++
			case r.More != nil:
				n += r.More.Captured + r.More.Passed
			case r.Lost != nil:
				n += int(r.Lost.Events)
			}
		}
		return n
	}
	entries := conntrackCount(t, lab)
	deadline := time.Now().Add(30 * time.Second)
	for seen() < min(many, entries)*9/10 && time.Now().Before(deadline) {
		<-time.After(50 * time.Millisecond)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	summary, err := o.end()
	if n := seen(); err != nil || n < min(many, entries)*9/10 {
		t.Errorf("%d of %d connections (%d entries), %+v, %v", n, many, entries, summary, err)
	}
	if told := len(o.records); told > 20_000 {
		t.Errorf("%d records", told)
	}
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 32<<20 {
		t.Errorf("%d bytes more", grown)
	}
	t.Logf("%d seen, %d lost, %d records", seen(), summary.Lost, len(o.records))
}

// conntrackCount is how many entries conntrack has in the pod.
func conntrackCount(t *testing.T, lab *netlab.Lab) (n int) {
	t.Helper()
	err := lab.Pod.Do(func() error {
		text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
		if err == nil {
			_, err = fmt.Sscan(string(text), &n)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}
