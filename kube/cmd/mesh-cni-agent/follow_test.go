//go:build linux

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/netns"
	"github.com/mesh-intercept/intercept/kube/internal/answers"
	"github.com/mesh-intercept/intercept/kube/testing/kubeapi"
	"github.com/mesh-intercept/intercept/testing/netlab"
	"github.com/mesh-intercept/intercept/testing/program"
)

// TestFollow: what happens in a pod is told as it happens, to who may ask, for a time. Nothing is left of it when who has
// asked goes.
func TestFollow(t *testing.T) {
	netlab.Require(t)
	netlab.RequireProgram(t, "nsenter")
	netlab.RequireProgram(t, "nft")
	h := newHostWith(t, kubeapi.Options{StreamLists: true, Reviews: reviews(t, &lockedBuffer{})})
	meshInit := filepath.Join(h.root, "mesh-init")
	if err := program.Build(meshInit, "cmd/mesh-init"); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	l.Close()
	path := h.unmeshed(t, podUID)
	h.api.Put(meshed("web", podUID))
	if out, err := exec.Command("nsenter", "--net="+path, "sh", "-ec", "ip link set lo up; "+
		"ip link add eth0 type veth peer far; ip link set far up; ip address add 198.51.100.7/24 dev eth0; "+
		"ip link set eth0 up; ip route add default via 198.51.100.1").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if _, err := (dataplane.Pod{NetNS: path}).Apply(t.Context(), intercept.Default()); err != nil {
		t.Fatal(err)
	}
	h.start(t, "--dry-run", "--mesh-init", meshInit, "--answers", at)
	until(t, "the pods are known", func() bool { code, _ := h.get("/readyz"); return code == 200 })

	trace, _ := answers.Find("trace")
	watch, _ := answers.Find("watch")
	by := func(token string) answers.Client {
		return answers.Client{Base: "https://" + at, Token: token, HTTP: &http.Client{Transport: &http.Transport{
			DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}}
	}
	ignore := func(answers.Part) error { return nil }
	refused := func(token string, v answers.Verb, flags map[string]string, status int, what string) {
		t.Helper()
		_, err := by(token).Follow(t.Context(), v, "default", "web", flags, ignore)
		if r, is := errors.AsType[*answers.Refusal](err); !is || r.Status != status || !strings.Contains(r.Message, what) {
			t.Errorf("%s %s, %v: %v; want %d, %q", token, v.Name, flags, err, status, what)
		}
	}
	refused("nonsense", trace, nil, 401, "--audience")
	refused("reader", trace, nil, 403, "reader may not create pods/intercept")
	refused("writer", trace, map[string]string{"pcap": "/etc/passwd"}, 400, `takes no "pcap"`)
	refused("reader", watch, map[string]string{"repair": "true"}, 400, `takes no "repair"`)
	refused("reader", watch, map[string]string{"for": "1h"}, 400, "longer than 10m")
	if a, err := by("writer").Follow(t.Context(), trace, "default", "web", map[string]string{"count": "none"},
		ignore); err != nil || a.Exit != 2 {
		t.Errorf("a mistake: %+v, %v", a, err)
	}

	// One that comes to its end beside the others.
	long := make(chan error, 1)
	go func() {
		a, err := by("reader").Follow(t.Context(), watch, "default", "web", map[string]string{"for": "2s"}, ignore)
		if err == nil && (a.Exit != 0 || a.State != answers.Unserved) {
			t.Errorf("watch for 2s: %+v", a)
		}
		long <- err
	}()

	tracing := func() bool {
		out, err := exec.Command("nsenter", "--net="+path, "nft", "list", "tables").Output()
		if err != nil {
			t.Error(err)
		}
		return strings.Contains(string(out), dataplane.TraceTable)
	}
	call := func() {
		n, err := netns.Open(path)
		if err != nil {
			t.Error(err)
			return
		}
		defer n.Close()
		_ = n.Do(func() error { // nobody listens
			conn, err := net.DialTimeout("tcp", "192.0.2.1:443", time.Second)
			if err == nil {
				err = conn.Close()
			}
			return err
		})
	}
	told := ""
	type end struct {
		answers.Answer
		err error
	}
	traced := make(chan end, 1)
	go func() {
		a, err := by("writer").Follow(t.Context(), trace, "default", "web",
			map[string]string{"dst": "192.0.2.1:443", "count": "1", "for": "1m"},
			func(p answers.Part) error { told += p.Stdout; return nil })
		traced <- end{a, err}
	}()
	until(t, "the pod is traced", tracing)
	call()
	if got := <-traced; got.err != nil || got.Exit != 0 || got.State != answers.Unserved ||
		!strings.Contains(told, "redirect(15001) by O12") {
		t.Errorf("%+v:\n%s", got, told)
	}

	// Who asks goes.
	ctx, gone := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := by("writer").Follow(ctx, trace, "default", "web", map[string]string{"for": "10m"}, ignore)
		ended <- err
	}()
	until(t, "the pod is traced", tracing)
	gone()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("gone: %v", err)
	}
	until(t, "nothing is left of it", func() bool { return !tracing() && !runs(meshInit, "trace") })

	// So many at a time, and then others again.
	ctx, gone = context.WithCancel(t.Context())
	begun := make(chan struct{}, 4)
	if err := <-long; err != nil {
		t.Errorf("watch for 2s: %v", err)
	}
	for range 4 {
		go func() {
			_, err := by("reader").Follow(ctx, watch, "default", "web", nil, func(answers.Part) error {
				select {
				case begun <- struct{}{}:
				default:
				}
				return nil
			})
			ended <- err
		}()
	}
	for range 4 {
		<-begun
	}
	refused("reader", watch, nil, 503, "try again when others have ended")
	gone()
	for range 4 {
		<-ended
	}
	until(t, "nothing is left of them", func() bool { return !runs(meshInit, "watch") })
}

// runs reports whether a program runs with a verb.
func runs(path, verb string) bool {
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return false
	}
	for _, p := range all {
		exe, _ := os.Readlink(filepath.Join(p, "exe"))
		line, _ := os.ReadFile(filepath.Join(p, "cmdline"))
		if exe == path && strings.Contains(string(line), "\x00"+verb+"\x00") {
			return true
		}
	}
	return false
}
