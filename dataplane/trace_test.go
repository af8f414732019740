//go:build linux

package dataplane

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/tracing"
	"github.com/mesh-intercept/intercept/nft"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// follow traces what is sent meanwhile, until it has told of count packets, and holds each record against the schema.
func follow(t *testing.T, pod Pod, f TraceFlow, count int, send func()) (packets []*tracePacket, connections []TraceRecord) {
	t.Helper()
	schema, err := jsonschema.NewCompiler().Compile("../docs/trace.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s, err := Open(ctx, pod)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	done := make(chan error, 1)
	begun := false
	go func() {
		note := func(n string) {
			if ownsTables(t) || !strings.HasPrefix(n, "this kernel is older than Linux 5.12: ") {
				t.Errorf("note: %s", n)
			}
		}
		_, err := s.Trace(ctx, TraceOptions{Flow: f, Count: count, Note: note,
			Tell: func(r TraceRecord) error {
				isOf(t, schema, r)
				if r.Packet != nil {
					packets = append(packets, r.Packet)
				} else {
					connections = append(connections, r)
				}
				return nil
			}})
		done <- err
	}()
	watcher, err := Open(ctx, pod)
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Close()
	for !begun && ctx.Err() == nil {
		begun = traces(t, watcher)
	}
	send()
	if err := <-done; err != nil || ctx.Err() != nil {
		t.Fatalf("%v, %v after %d packets", err, ctx.Err(), len(packets))
	}
	if traces(t, watcher) {
		t.Error("the table is left")
	}
	return packets, connections
}

// tracePacket is what a record has of a packet.
type tracePacket = tracing.Packet

// traces reports whether the table of a trace is there.
func traces(t *testing.T, s *Session) (is bool) {
	t.Helper()
	err := s.do(t.Context(), func() error {
		conn, err := nft.Open()
		if err != nil {
			return err
		}
		defer conn.Close()
		is, err = conn.Traces()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return is
}

// ownsTables reports whether the kernel takes a table away with its process (NFT_TABLE_F_OWNER, Linux 5.12).
func ownsTables(t *testing.T) bool {
	t.Helper()
	var major, minor int
	if _, err := fmt.Sscanf(release(), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	return major > 5 || major == 5 && minor >= 12
}

// isOf holds a record against a schema.
func isOf(t *testing.T, s *jsonschema.Schema, record any) {
	t.Helper()
	text, err := json.Marshal(record)
	if err != nil {
		t.Error(err)
		return
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err == nil {
		err = s.Validate(doc)
	}
	if err != nil {
		t.Errorf("%s: %v", text, err)
	}
}

// TestTrace: the path is told in the IDs of our rules, by every backend and in both families, with what NAT makes of the
// addresses; and others' rules by their place.
func TestTrace(t *testing.T) {
	for _, backend := range concrete() {
		t.Run(string(backend), func(t *testing.T) {
			needPrograms(t)
			netlab.RequireProgram(t, "nft")
			lab := netlab.NewT(t, netlab.Options{})
			pod := Pod{NetNS: lab.Pod.Path(), Backend: backend}
			c := intercept.Default()
			c.Outbound.ExcludePorts = intercept.Ports{intercept.Port(5432)}
			if _, err := pod.Apply(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
				t.Fatal(err)
			}
			// Somebody else's rules, before ours and behind them.
			err := lab.Pod.Do(func() error {
				cmd := exec.Command("nft", "-f", "-")
				cmd.Stdin = strings.NewReader(`table inet theirs {
					chain early { type filter hook output priority -250; tcp dport 80 counter comment "audit"; }
					chain late { type filter hook output priority 50; udp dport 9999 counter drop comment "no gaming"; }
				}`)
				out, err := cmd.CombinedOutput()
				if err != nil {
					return fmt.Errorf("%w: %s", err, out)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			user := &intercept.Owner{UID: 1000, GID: 1000}
			for _, to := range []string{"203.0.113.10", "2001:db8:beef::10"} {
				dst := netip.MustParseAddr(to)
				local := "127.0.0.1"
				if dst.Is6() {
					local = "::1"
				}
				for _, tt := range []struct {
					name      string
					flow      netlab.Flow
					fate, by  string
					nat, step string
				}{
					{"captured", netlab.Flow{Protocol: intercept.TCP, Dst: netip.AddrPortFrom(dst, 80), Owner: user},
						"redirect(15001)", "O12", netip.AddrPortFrom(netip.MustParseAddr(local), 15001).String(),
						"inet theirs early handle "},
					{"excluded", netlab.Flow{Protocol: intercept.TCP, Dst: netip.AddrPortFrom(dst, 5432), Owner: user},
						"pass", "O5.ports", "", "O5.ports"},
					{"dropped by others", netlab.Flow{Protocol: intercept.UDP, Dst: netip.AddrPortFrom(dst, 9999), Owner: user,
						Timeout: 100 * time.Millisecond}, "drop", "inet theirs late handle ", "", "(no gaming) [discard], drop"},
				} {
					t.Run(tt.name+" "+to, func(t *testing.T) {
						packets, connections := follow(t, pod, TraceFlow{Hook: ruleset.Output, Protocol: tt.flow.Protocol, Dst: tt.flow.Dst,
							Senders: [][]ruleset.Match{{ruleset.UID{{First: 1000, Last: 1000}}}}}, 1, func() {
							if _, err := lab.Send(tt.flow); err != nil {
								t.Error(err)
							}
						})
						if len(packets) != 1 {
							t.Fatalf("%d packets", len(packets))
						}
						p := packets[0]
						if p.Fate != tt.fate || !strings.HasPrefix(p.By, tt.by) || p.Dst != tt.flow.Dst || p.Hook != "output" {
							t.Errorf("%+v", p)
						}
						if (p.After != nil) != (tt.nat != "") || p.After != nil && p.After.Dst.String() != tt.nat {
							t.Errorf("NAT: %+v, want %s", p.After, tt.nat)
						}
						if !strings.Contains(p.Comment(), tt.step) || len(p.Data()) < 28 {
							t.Errorf("%q is not in %s (%d bytes)", tt.step, p.Comment(), len(p.Data()))
						}
						if n := len(connections); tt.fate == "drop" != (n == 0) {
							t.Errorf("%d events of conntrack: %+v", n, connections)
						}
						if tt.nat != "" && connections[0].Connection.Answers.String() != tt.nat {
							t.Errorf("%+v", connections[0].Connection)
						}
					})
				}
			}
			// What arrives.
			packets, _ := follow(t, pod, TraceFlow{}, 1, func() {
				if _, err := lab.Send(netlab.Flow{From: netlab.FromPeer, Protocol: intercept.TCP,
					Dst: netip.MustParseAddrPort("10.244.0.5:8080")}); err != nil {
					t.Error(err)
				}
			})
			if p := packets[0]; p.Fate != "redirect(15006)" || p.By != "I7" || p.Hook != "prerouting" || p.Flags != "SYN" {
				t.Errorf("inbound: %+v", p)
			}
			if _, err := pod.Check(t.Context(), c); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestTraceKilled: a killed trace leaves nothing, by every backend; before Linux 5.12 nothing that the next does not take
// away.
func TestTraceKilled(t *testing.T) {
	if os.Getenv("MESH_TEST_TRACE") != "" {
		_, err := (Pod{}).Trace(t.Context(), TraceOptions{Count: 1, Tell: func(TraceRecord) error { return nil }})
		t.Fatalf("it has ended: %v", err)
	}
	owned := ownsTables(t)
	for _, backend := range concrete() {
		t.Run(string(backend), func(t *testing.T) {
			needPrograms(t)
			lab := netlab.NewT(t, netlab.Options{})
			pod := Pod{NetNS: lab.Pod.Path(), Backend: backend}
			if _, err := pod.Apply(t.Context(), intercept.Default()); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(os.Args[0], "-test.run", "^TestTraceKilled$")
			cmd.Env = append(os.Environ(), "MESH_TEST_TRACE=1")
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := lab.Pod.Start(cmd, nil); err != nil {
				t.Fatal(err)
			}
			s, err := Open(t.Context(), pod)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			deadline := time.Now().Add(20 * time.Second)
			for !traces(t, s) {
				if time.Now().After(deadline) {
					t.Fatal("it does not begin")
				}
			}
			// Another one is refused while it is at work. That legacy xtables' log is taken does not say by whom.
			if owned {
				_, err = pod.Trace(t.Context(), TraceOptions{Count: 1})
				if known := errors.Is(err, ErrTraced) && errors.Is(err, ruleset.ErrLocked); !known &&
					(backend != BackendIPTablesLegacy || err == nil || !strings.Contains(err.Error(), "another mesh-init trace")) {
					t.Errorf("two at once: %v", err)
				}
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			for lines := bufio.NewScanner(out); lines.Scan(); {
			}
			_ = cmd.Wait()
			if !owned {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				if _, err := pod.Trace(ctx, TraceOptions{}); err != nil {
					t.Error(err)
				}
			}
			for traces(t, s) {
				if time.Now().After(deadline) {
					t.Fatal("the table is left")
				}
			}
			if diffs, err := pod.Check(t.Context(), intercept.Default()); err != nil || len(diffs) > 0 {
				t.Errorf("%v, %v", diffs, err)
			}
		})
	}
}
