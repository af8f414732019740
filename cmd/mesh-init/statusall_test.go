//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/netns"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// waiting starts a process in a network namespace of its own, and returns what is found of it, and how to end it.
func waiting(t *testing.T) (f netns.Found, end func()) {
	t.Helper()
	ns, err := netlab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := ns.Start(cmd, nil); err != nil {
		t.Fatal(err)
	}
	end = func() {
		if err := errors.Join(stdin.Close(), cmd.Wait(), ns.Close()); err != nil {
			t.Error(err)
		}
	}
	all, _, err := netns.List()
	i := slices.IndexFunc(all, func(f netns.Found) bool { return f.PID == cmd.Process.Pid })
	if err != nil || i < 0 {
		end()
		t.Fatalf("process %d is not found: %v", cmd.Process.Pid, err)
	}
	return all[i], end
}

// slow is a plane that does not answer before it may, whatever becomes of the context.
type slow struct {
	fakePlane
	may <-chan struct{}
}

// Overview waits.
func (s slow) Overview(ctx context.Context) (dataplane.Overview, error) {
	<-s.may
	return s.fakePlane.Overview(ctx)
}

// TestLookAtAll: what hangs, fails or ends stands in its own row, and does not keep the others from theirs.
func TestLookAtAll(t *testing.T) {
	netlab.Require(t)
	may := make(chan struct{})
	defer close(may)
	planes, want := map[string]plane{}, map[string]string{}
	var found []netns.Found
	for _, tc := range []struct {
		plane plane
		want  string
		ended bool
	}{
		{slow{may: may}, "unknown: it did not answer within 3s: wait longer with --timeout", false},
		{fakePlane{live: changed()}, "changed: a rule is missing; and 1 more", false},
		{fakePlane{err: errors.New("no\nidea")}, "unknown: no\nidea", false},
		{fakePlane{err: fmt.Errorf("look: %w", context.DeadlineExceeded)}, "unknown: it did not answer within 10s", false},
		{fakePlane{err: fmt.Errorf("pid: %w", dataplane.ErrHostNetNS)}, "left alone: pid: " + dataplane.ErrHostNetNS.Error(), false},
		{fakePlane{}, "intercepting", false},
		{fakePlane{}, "gone: it ended while it was looked at", true},
	} {
		f, end := waiting(t)
		if tc.ended {
			end()
		} else {
			defer end()
		}
		found = append(found, f)
		planes[f.Spec()], want[f.Spec()] = tc.plane, tc.want
	}
	j := job{ctx: t.Context(), on: func(p dataplane.Pod) plane { return planes[p.NetNS] }}
	j.timeout = 3 * time.Second // for what hangs; the others do not take it
	rows := j.lookAtAll(found, nil)
	if len(rows) != len(found) {
		t.Fatalf("%d rows of %d", len(rows), len(found))
	}
	for _, r := range rows {
		if got := strings.TrimSuffix(string(r.State)+": "+r.Why, ": "); got != want[r.NetNS] {
			t.Errorf("%q, not %q", got, want[r.NetNS])
		}
	}
	// Where too many hang, the others are named as well.
	many := slices.Repeat(found[:1], looksAtOnce+3)
	states := map[string]int{}
	for _, r := range j.lookAtAll(many, nil) {
		states[r.Why]++
	}
	if states["it did not answer within 3s: wait longer with --timeout"] != looksAtOnce || states["it was not looked at within 3s: wait longer with --timeout"] != 3 {
		t.Errorf("%v", states)
	}
}

// TestRows: the most trouble comes first, and of one state what has a name; a name cannot act on a terminal.
func TestRows(t *testing.T) {
	rows := []nodeRow{
		{NetNS: "pid:3", State: gone}, {NetNS: "pid:2", State: leftAlone}, {NetNS: "pid:9", State: unknown, Why: "a\x1b[2J"},
		{NetNS: "b", State: dataplane.Intercepting, Namespace: "shop", Name: "web"},
		{NetNS: "a", State: dataplane.Intercepting, Namespace: "shop", Name: "cart"},
		{NetNS: "x", State: dataplane.NotIntercepted}, {NetNS: "y", State: dataplane.Unserved}, {NetNS: "z", State: dataplane.Asleep},
		{NetNS: "v", State: dataplane.Taken}, {NetNS: "w", State: dataplane.Changed},
	}
	sortRows(rows)
	var order []string
	for _, r := range rows {
		order = append(order, r.NetNS)
	}
	if got := strings.Join(order, " "); got != "x z w v y pid:9 a b pid:2 pid:3" {
		t.Error(got)
	}
	if text := rowsText(rows, false); strings.Contains(text, "\x1b") || !strings.Contains(text, `a\x1b[2J`) {
		t.Errorf("%q", text)
	}
	if err := troubleIn(rows); !errors.Is(err, errTrouble) || err.Error() != "network namespaces in trouble: 6 of 10" {
		t.Error(err)
	}
	if err := troubleIn(rows[6:]); err != nil {
		t.Error(err)
	}
	if err := troubleIn(nil); err != nil {
		t.Error(err)
	}
	if got := rowOf(netns.Found{Path: "/run/netns/cni-5d0a9a4e-3a0c-5a1f-9a3b-5a9c3f0e8e3e", PID: 7, PodUID: "u"},
		map[string]netns.PodName{"u": {Namespace: "shop", Name: "web"}}); got.NetNS != "pid:7" || got.Namespace != "shop" || got.Name != "web" {
		t.Errorf("%+v", got)
	}
	if got := rowOf(netns.Found{Path: "/run/netns/web", PID: 7}, nil); got.NetNS != "web" || got.PID != 7 {
		t.Errorf("%+v", got)
	}
}

// TestStatusOfAllIsAList in JSON, whatever there is.
func TestStatusOfAllIsAList(t *testing.T) {
	netlab.Require(t)
	f, end := waiting(t)
	defer end()
	var out strings.Builder
	p := program{strings.NewReader(""), &out, io.Discard, func(dataplane.Pod) plane { return fakePlane{} }}
	code := p.run(t.Context(), []string{"status", "--all", "-o", "json"}, []string{"MESH_NETNS=/of/all/verbs"})
	schema := schemaOf(t, "status.schema.json")
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(out.String()))
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(doc); err != nil {
		t.Error(err)
	}
	var rows []nodeRow
	if err := json.Unmarshal([]byte(out.String()), &rows); err != nil || code != 0 && code != 24 { // one of others can end meanwhile
		t.Fatalf("exit code %d, %v", code, err)
	}
	if !slices.ContainsFunc(rows, func(r nodeRow) bool {
		return r.PID == f.PID && r.State == dataplane.Intercepting && r.Summary == "intercepting: as told"
	}) {
		t.Errorf("process %d is not in\n%s", f.PID, out.String())
	}
}
