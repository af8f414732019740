//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/podspec/probes"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// asRelay makes the test's program be mesh-probe.
const asRelay = "MESH_TEST_AS_RELAY"

func TestMain(m *testing.M) {
	if os.Getenv(asRelay) == "1" {
		main()
	}
	os.Exit(m.Run())
}

// The pod's addresses (package netlab), and where kubelet reaches the relay.
const pod4, pod6 = "10.244.0.5", "fd00:244::5"

// pod is a pod whose rules are in force, with a proxy, an app to come and a relay.
type pod struct {
	*testing.T
	lab   *netlab.Lab
	relay *exec.Cmd
	log   *buffer
	at    string // the relay's host
	ended chan error
}

// buffer is written and read at the same time.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// newPod makes a pod with a proxy, and puts rules in force in it.
func newPod(t *testing.T, config intercept.Config) *pod {
	t.Helper()
	p := &pod{T: t, lab: netlab.NewT(t, netlab.Options{}), log: &buffer{}}
	sidecar := netlab.SidecarConfig{Transparent: config.Inbound.Mode == intercept.InboundTProxy}
	if _, err := p.lab.StartSidecar(sidecar); err != nil {
		t.Fatal(err)
	}
	if _, err := (dataplane.Pod{NetNS: p.lab.Pod.Path()}).Apply(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	return p
}

// probes starts the relay as the proxy's user, and waits until it answers.
func (p *pod) probes(ips string, all ...probes.Probe) {
	p.Helper()
	text, err := probes.Set{Probes: all}.Text()
	if err != nil {
		p.Fatal(err)
	}
	p.relay = exec.Command("/proc/self/exe", "run", "--drain", "20s")
	p.relay.Env = []string{asRelay + "=1", probes.Env + "=" + text, probes.PodIPs + "=" + ips}
	p.relay.Stderr = p.log
	if err := p.lab.Pod.Start(p.relay, &intercept.Owner{UID: 1337, GID: 1337}); err != nil {
		p.Fatal(err)
	}
	p.ended = make(chan error, 1)
	go func() { p.ended <- p.relay.Wait() }()
	p.at, _, _ = strings.Cut(ips, ",")
	for {
		select {
		case err := <-p.ended:
			p.Fatalf("%v: %s", err, p.log)
		default:
		}
		if status, _, err := p.get("/healthz"); err == nil && status == 200 {
			return
		}
	}
}

// kubelet is a client outside the pod, at an address; "": any. It dials a new
// connection for each request.
func (p *pod) kubelet(from string) *http.Client {
	dialer := net.Dialer{}
	if from != "" {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))
	}
	dial := func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
		doErr := p.lab.Peer.Do(func() error {
			conn, err = dialer.DialContext(ctx, network, addr)
			return nil
		})
		return conn, errors.Join(err, doErr)
	}
	return &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}, Timeout: time.Minute}
}

func (p *pod) get(path string) (status int, body string, err error) {
	return p.getFrom(p.kubelet(""), path)
}

func (p *pod) getFrom(client *http.Client, path string) (status int, body string, err error) {
	req, err := http.NewRequest(http.MethodGet, "http://"+net.JoinHostPort(p.at, "15020")+path, nil)
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("User-Agent", "kube-probe/1.37")
	res, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return res.StatusCode, string(text), err
}

// want asks for a path, and compares.
func (p *pod) want(path string, status int, part string) {
	p.Helper()
	got, body, err := p.get(path)
	if err != nil || got != status || !strings.Contains(body, part) {
		p.Errorf("%s: %d %q, %v; want %d %q\n%s", path, got, body, err, status, part, p.log)
	}
}

// listen listens in the pod.
func (p *pod) listen(addr string) net.Listener {
	p.Helper()
	var l net.Listener
	err := p.lab.Pod.Do(func() (err error) {
		l, err = net.Listen("tcp", addr)
		return err
	})
	if err != nil {
		p.Fatal(err)
	}
	p.Cleanup(func() { l.Close() })
	return l
}

// app serves HTTP in the pod. Closing it ends the app.
func (p *pod) app(addr string, h http.HandlerFunc, change ...func(*httptest.Server)) *httptest.Server {
	p.Helper()
	s := &httptest.Server{Listener: p.listen(addr), Config: &http.Server{Handler: h}}
	for _, c := range change {
		c(s)
	}
	if s.TLS != nil {
		s.StartTLS()
	} else {
		s.Start()
	}
	p.Cleanup(s.Close)
	return s
}

func fine(http.ResponseWriter, *http.Request) {}

func get(port uint16, path string) probes.Probe {
	return probes.Probe{Container: "app", Kind: probes.Readiness, TimeoutSeconds: 5, Handler: probes.HTTPGet, Port: port,
		Scheme: "HTTP", Path: path}
}

const ready, live, start = "/probe/app/readiness", "/probe/app/liveness", "/probe/app/startup"

// TestDeadApp: the relay sees the app die behind a proxy that lives, in each mode
// and family, by each handler. The app's ports belong to the proxy, which nobody
// else gets past.
func TestDeadApp(t *testing.T) {
	modes := []intercept.InboundMode{intercept.InboundRedirect, intercept.InboundTProxy, intercept.InboundOff}
	for _, mode := range modes {
		for _, ip := range []string{pod4, pod6} {
			t.Run(fmt.Sprintf("%s %s", mode, ip), func(t *testing.T) {
				config := intercept.Default()
				config.Inbound.Mode = mode
				p := newPod(t, config)
				if ip == pod6 {
					p.passthrough6()
				}
				p.probes(ip, get(8080, "/ready"),
					probes.Probe{Container: "app", Kind: probes.Liveness, TimeoutSeconds: 5, Handler: probes.TCPSocket, Port: 8081},
					probes.Probe{Container: "app", Kind: probes.Startup, TimeoutSeconds: 5, Handler: probes.GRPC, Port: 8082})
				for _, path := range []string{ready, live, start} {
					p.want(path, 503, "connection refused")
				}
				sick := atomic.Bool{}
				http := p.app(net.JoinHostPort(ip, "8080"), func(w http.ResponseWriter, r *http.Request) {
					if sick.Load() || r.URL.Path != "/ready" {
						w.WriteHeader(500)
					}
				})
				tcp := p.listen(net.JoinHostPort(ip, "8081"))
				server := grpc.NewServer()
				state := health.NewServer()
				healthpb.RegisterHealthServer(server, state)
				go server.Serve(p.listen(net.JoinHostPort(ip, "8082")))
				for _, path := range []string{ready, live, start} {
					p.want(path, 200, "ok")
				}
				if mode != intercept.InboundOff {
					got, err := p.lab.Send(netlab.Flow{From: netlab.FromPeer, Protocol: intercept.TCP,
						Dst: netip.AddrPortFrom(netip.MustParseAddr(ip), 8080)})
					if err != nil || got.Role != netlab.RoleInbound {
						t.Errorf("a user of the app reached %v, %v", got, err)
					}
				}
				sick.Store(true)
				p.want(ready, 503, "status 500")
				state.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
				p.want(start, 503, "NOT_SERVING")
				http.Close()
				tcp.Close()
				server.Stop()
				for _, path := range []string{ready, live, start} {
					p.want(path, 503, "connection refused")
				}
			})
		}
	}
}

// passthrough6 waits until the pod has ::6: by a flow from it.
func (p *pod) passthrough6() {
	p.Helper()
	if _, err := p.lab.Send(netlab.Flow{Protocol: intercept.TCP, Src: netip.MustParseAddrPort("[::6]:0"),
		Dst: netip.MustParseAddrPort("[::1]:7")}); err != nil {
		p.Fatal(err)
	}
}

// without6 takes ::6 away from the pod, as where the rules were written by hand.
func (p *pod) without6() {
	p.Helper()
	err := p.lab.Pod.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr("::6/128")
		if err != nil {
			return err
		}
		return netlink.AddrDel(lo, addr)
	})
	if err != nil {
		p.Fatal(err)
	}
}

// TestWhereAppsListen: at one address only, or at all, with and without ::6.
func TestWhereAppsListen(t *testing.T) {
	for _, tt := range []struct {
		ips, listen string
		source6     bool
		status      int
		part        string
	}{
		{pod4, "127.0.0.1:8080", false, 200, ""},
		{pod4, pod4 + ":8080", false, 200, ""},
		{pod4, "0.0.0.0:8080", false, 200, ""},
		{pod4, "[::]:8080", false, 200, ""},
		{pod4 + "," + pod6, pod4 + ":8080", false, 200, ""},
		{pod4 + "," + pod6, "[" + pod6 + "]:8080", false, 503, "connection refused"}, // kubelet asks the first
		{pod6, "[::1]:8080", true, 200, ""},
		{pod6, "[::1]:8080", false, 200, ""},
		{pod6, "[" + pod6 + "]:8080", true, 200, ""},
		{pod6, "[" + pod6 + "]:8080", false, 503, "ip address add ::6/128 dev lo"},
		{pod6, "[::]:8080", false, 200, ""},
	} {
		t.Run(fmt.Sprintf("%s %s %v", tt.ips, tt.listen, tt.source6), func(t *testing.T) {
			p := newPod(t, intercept.Default())
			if tt.source6 {
				p.passthrough6()
			} else {
				p.without6()
			}
			p.app(tt.listen, fine)
			p.probes(tt.ips, get(8080, "/"))
			p.want(ready, tt.status, tt.part)
		})
	}
}

// TestAsKubelet: what the app sees, and which of its answers are good.
func TestAsKubelet(t *testing.T) {
	p := newPod(t, intercept.Default())
	var mu sync.Mutex
	var seen *http.Request
	var remotes []string
	app := func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen, remotes = r, append(remotes, r.RemoteAddr)
		switch to, path := r.URL.Query().Get("to"), r.URL.Path; {
		case to != "":
			http.Redirect(w, r, to, http.StatusFound)
		case path == "/399":
			w.WriteHeader(399)
		case path == "/400":
			w.WriteHeader(400)
		}
	}
	secure := func(s *httptest.Server) { s.TLS, s.EnableHTTP2 = &tls.Config{}, true }
	p.app("0.0.0.0:8080", app)
	p.app("0.0.0.0:8443", app, secure)
	p.app("0.0.0.0:8082", app, func(s *httptest.Server) {
		s.Config.Protocols = new(http.Protocols)
		s.Config.Protocols.SetUnencryptedHTTP2(true)
	})
	named := get(8080, "/a%20b?c=d")
	named.Headers = []probes.Header{{Name: "Host", Value: "app.example"}, {Name: "x-KEY", Value: "1"},
		{Name: "X-Key", Value: "2"}, {Name: "Accept", Value: ""}, {Name: "User-Agent", Value: "me"}}
	https, h2c := get(8443, "/"), get(8082, "/")
	https.Scheme, h2c.HTTP2 = "HTTPS", true
	all := map[string]probes.Probe{"plain": get(8080, "/"), "named": named, "https": https, "h2c": h2c,
		"300s": get(8080, "/399"), "400s": get(8080, "/400"), "rel": get(8080, "ready"),
		"moved": get(8080, "/?to=/ok"), "away": get(8080, "/?to=http://203.0.113.9/"), "gone": get(8080, "/?to=/400"),
		"round": get(8080, "/?to=%2F%3Fto%3D%252F"), "wrong": func() probes.Probe { q := https; q.Port = 8080; return q }()}
	var set []probes.Probe
	for name, q := range all {
		q.Container = name
		set = append(set, q)
	}
	p.probes(pod4, set...)
	for name, want := range map[string]struct {
		status int
		url    string
		major  int
	}{
		"plain": {200, "/", 1}, "named": {200, "/a%20b?c=d", 1}, "https": {200, "/", 2}, "h2c": {200, "/", 2},
		"300s": {200, "/399", 1}, "400s": {503, "/400", 1}, "moved": {200, "/ok", 1},
		"away": {200, "/?to=http://203.0.113.9/", 1}, "gone": {503, "/400", 1}, "rel": {200, "/ready", 1},
		"round": {200, "/", 1},
	} {
		p.want(probes.Path(name, probes.Readiness), want.status, "")
		mu.Lock()
		if seen == nil || seen.RequestURI != want.url || seen.ProtoMajor != want.major {
			t.Errorf("%s: the app saw %+v", name, seen)
		} else if h := seen.Header; name == "named" {
			if seen.Host != "app.example" || strings.Join(h["X-Key"], ",") != "1,2" || h["Accept"] != nil ||
				h.Get("User-Agent") != "me" {
				t.Errorf("the app saw %s, %v", seen.Host, h)
			}
		} else if !strings.HasPrefix(seen.Host, pod4+":") || h.Get("User-Agent") != "kube-probe/1.37" ||
			h.Get("Accept") != "*/*" || h["Accept-Encoding"] != nil {
			t.Errorf("%s: the app saw %s, %v", name, seen.Host, h)
		}
		mu.Unlock()
	}
	p.want(probes.Path("wrong", probes.Readiness), 503, "HTTP response to HTTPS client")

	// A new connection each time.
	mu.Lock()
	remotes = nil
	mu.Unlock()
	for range 3 {
		p.want(probes.Path("https", probes.Readiness), 200, "")
	}
	mu.Lock()
	defer mu.Unlock()
	if len(remotes) != 3 || remotes[0] == remotes[1] || remotes[1] == remotes[2] || remotes[0] == remotes[2] {
		t.Errorf("connections from %v", remotes)
	}
	for _, from := range remotes {
		if !strings.HasPrefix(from, "127.0.0.6:") {
			t.Errorf("a connection from %s", from)
		}
	}
}

// TestGRPC: a service's own state, TLS, and a server that does not know the protocol.
func TestGRPC(t *testing.T) {
	p := newPod(t, intercept.Default())
	source := httptest.NewTLSServer(nil) // has a certificate
	defer source.Close()
	state := health.NewServer()
	state.SetServingStatus("db", healthpb.HealthCheckResponse_NOT_SERVING)
	secure := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: source.TLS.Certificates})))
	healthpb.RegisterHealthServer(secure, state)
	go secure.Serve(p.listen(":1"))
	other := grpc.NewServer()
	go other.Serve(p.listen(":2"))
	defer func() { secure.Stop(); other.Stop() }()
	p.app(":3", fine)
	ask := func(container string, port uint16, service string, tls bool) probes.Probe {
		return probes.Probe{Container: container, Kind: probes.Readiness, TimeoutSeconds: 5, Handler: probes.GRPC, Port: port,
			Service: service, TLS: tls}
	}
	p.probes(pod4, ask("tls", 1, "", true), ask("db", 1, "db", true), ask("none", 1, "x", true),
		ask("plain", 1, "", false), ask("other", 2, "", false), ask("http", 3, "", false))
	p.want("/probe/tls/readiness", 200, "ok")
	p.want("/probe/db/readiness", 503, "NOT_SERVING")
	p.want("/probe/none/readiness", 503, "unknown service")
	p.want("/probe/plain/readiness", 503, "")
	p.want("/probe/other/readiness", 503, "does not implement gRPC's health protocol")
	p.want("/probe/http/readiness", 503, "")
}

// TestHostileApp: an app that answers without end or not at all holds nobody longer
// than the probe's timeout.
func TestHostileApp(t *testing.T) {
	p := newPod(t, intercept.Default())
	answer := func(port, begins, then string) {
		l := p.listen(":" + port)
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
						return
					}
					_, err := io.WriteString(conn, begins)
					for err == nil && then != "" {
						_, err = io.WriteString(conn, then)
					}
					_, _ = io.Copy(io.Discard, conn)
				}()
			}
		}()
	}
	answer("1", "HTTP/1.1 200 OK\r\n\r\n", strings.Repeat("x", 4096))        // an endless body
	answer("2", "HTTP/1.1 200 OK\r\n", "X: "+strings.Repeat("x", 99)+"\r\n") // endless headers
	answer("3", "HTTP/1.1 200 OK\r\nX: ", "")                                // headers that stop
	answer("4", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", "")         // a body that stops
	answer("5", "", "")                                                      // nothing
	answer("6", "SSH-2.0-x\r\n", "")
	answer("7", "HTTP/1.1 503 \x1b[2J\r\nContent-Length: 0\r\n\r\n", "")
	answer("8", "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\n")
	wants := []string{"", "exceeded", "no answer within 1s", "no answer within 1s", "no answer within 1s", "malformed",
		"status 503", ""}
	var all []probes.Probe
	for i := range wants {
		q := get(uint16(i+1), "/")
		q.Container, q.TimeoutSeconds = fmt.Sprintf("a%d", i+1), 1
		all = append(all, q)
	}
	p.probes(pod4, all...)
	for i, part := range wants {
		status := 503
		if i == 0 {
			status = 200 // as kubelet: it reads no more than 10 KiB
		}
		p.want(probes.Path(fmt.Sprintf("a%d", i+1), probes.Readiness), status, part)
	}
	if log := p.log.String(); strings.Contains(log, "\x1b") || !strings.Contains(log, `"reason":"status 503"`) {
		t.Errorf("log: %q", log)
	}
}

// TestCrowd: a thousand at once reach the app as one, and keep no other from an
// answer.
func TestCrowd(t *testing.T) {
	p := newPod(t, intercept.Default())
	var now, most, sum atomic.Int32
	release := make(chan struct{})
	p.app(":8080", func(http.ResponseWriter, *http.Request) {
		sum.Add(1)
		if n := now.Add(1); n > most.Load() {
			most.Store(n)
		}
		defer now.Add(-1)
		<-release
	})
	q := get(8080, "/")
	q.TimeoutSeconds = 60
	p.probes(pod4, q, func() probes.Probe { h := q; h.Container = "other"; h.Port = 8081; return h }())
	results := make(chan int, 1000)
	for range 1000 {
		go func() {
			status, _, err := p.get(ready)
			if err != nil {
				status = 0
			}
			results <- status
		}()
	}
	count := map[int]int{}
	for range 1000 - 66 { // those who are too many are sent away at once
		count[<-results]++
	}
	// Another peer is answered all the same, and asks the same attempt.
	kubelet := p.kubelet("192.0.2.77")
	if status, _, err := p.getFrom(kubelet, "/probe/other/readiness"); err != nil || status != 503 {
		t.Errorf("another probe: %d, %v", status, err)
	}
	close(release)
	for range 66 {
		count[<-results]++
	}
	if status, _, err := p.getFrom(kubelet, ready); err != nil || status != 200 {
		t.Errorf("afterwards: %d, %v", status, err)
	}
	if count[200] == 0 || count[200]+count[0] != 1000 || most.Load() != 1 || sum.Load() > 3 {
		t.Errorf("answers %v; %d at once, %d in all", count, most.Load(), sum.Load())
	}
}

// TestHostileClient: nothing but the probes can be asked for, and no connection
// leaves for what a client names.
func TestHostileClient(t *testing.T) {
	p := newPod(t, intercept.Default())
	var asked atomic.Int32
	p.app(":8080", func(_ http.ResponseWriter, r *http.Request) { asked.Add(1) })
	p.probes(pod4, get(8080, "/"))
	watch, err := p.lab.Pod.Watch()
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	say := func(text string) string {
		var conn net.Conn
		if err := p.lab.Peer.Do(func() (err error) { conn, err = net.Dial("tcp", pod4+":15020"); return err }); err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, text) // it may have heard enough
		answer, _ := io.ReadAll(conn)
		line, _, _ := strings.Cut(string(answer), "\r\n")
		return strings.TrimPrefix(line, "HTTP/1.1 ")
	}
	const tooLarge, long = "431 Request Header Fields Too Large", 1 << 20
	for text, want := range map[string]string{
		"GET /probe/app/liveness HTTP/1.1\r\nHost: x\r\n\r\n":                                      "404 Not Found",
		"GET /probe/app/readiness/ HTTP/1.1\r\nHost: x\r\n\r\n":                                    "404 Not Found",
		"GET //probe/app/readiness HTTP/1.1\r\nHost: x\r\n\r\n":                                    "404 Not Found",
		"GET /probe/../probe/app/readiness HTTP/1.1\r\nHost: x\r\n\r\n":                            "404 Not Found",
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n":                                                        "404 Not Found",
		"GET http://203.0.113.9/ HTTP/1.1\r\nHost: x\r\n\r\n":                                      "404 Not Found",
		"CONNECT 203.0.113.9:80 HTTP/1.1\r\nHost: x\r\n\r\n":                                       "405 Method Not Allowed",
		"POST /probe/app/readiness HTTP/1.1\r\nHost: x\r\n\r\n":                                    "405 Method Not Allowed",
		"POST /probe/app/readiness HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n":              "400 Bad Request",
		"GET /probe/app/readiness HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n":       "400 Bad Request",
		"GET /probe/app/readiness HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", long) + "\r\n": tooLarge,
		"GET /" + strings.Repeat("x", long):                                                        tooLarge,
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n":                                                         "400 Bad Request",
		"\x16\x03\x01\x00\x05hello\r\n\r\n":                                                        "400 Bad Request",
	} {
		if got := say(text); got != want && got != "" {
			t.Errorf("%.60q: %q, want %q", text, got, want)
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the app was asked %d times", n)
	}
	// What is named beside a probe's path is not looked at.
	got := say("GET http://203.0.113.9/probe/app/readiness?port=1 HTTP/1.1\r\nHost: y\r\nUser-Agent: evil\r\n\r\n")
	if got != "200 OK" || asked.Load() != 1 {
		t.Errorf("%q, %d", got, asked.Load())
	}
	sent, err := watch.SoFar()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sent {
		if text := s.String(); strings.Contains(text, "203.0.113.9") {
			t.Errorf("the relay sent %s", text)
		}
	}
	p.want("/metrics", 200, `mesh_probe_probes_total{container="app",kind="readiness",result="success"} 1`)
	p.want("/metrics", 200, `mesh_probe_probes_total{container="app",kind="readiness",result="failure"} 0`)
}

// TestHooks: kubelet fails a hook that is not answered, and takes every answer for
// a good one. After SIGTERM the relay waits for the preStop hook.
func TestHooks(t *testing.T) {
	p := newPod(t, intercept.Default())
	stopping, stopped := make(chan struct{}), make(chan struct{})
	p.app(":8080", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stop" {
			close(stopping)
			<-stopped
		}
		w.WriteHeader(500)
	})
	hook := func(k probes.Kind, port uint16, path, scheme string) probes.Probe {
		return probes.Probe{Container: "app", Kind: k, Handler: probes.HTTPGet, Port: port, Scheme: scheme, Path: path}
	}
	other := hook(probes.PostStart, 8081, "/", "HTTP")
	other.Container = "other"
	p.probes(pod4, hook(probes.PostStart, 8080, "/", "HTTPS"), hook(probes.PreStop, 8080, "/stop", "HTTP"), other)
	p.want("/probe/app/postStart", 200, "ok") // by HTTP, as kubelet does then
	if status, body, err := p.get("/probe/other/postStart"); err == nil {
		t.Errorf("a hook that fails is answered: %d %s", status, body)
	}
	// It is written once the connection is closed.
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(p.log.String(), "connection refused"); {
		if time.Now().After(deadline) {
			t.Fatalf("the log does not say why: %s", p.log)
		}
		<-time.After(time.Millisecond)
	}
	if err := p.relay.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	result := make(chan string, 1)
	go func() {
		status, _, err := p.get("/probe/app/preStop")
		result <- fmt.Sprint(status, err)
	}()
	<-stopping
	select {
	case err := <-p.ended:
		t.Fatalf("it ended before the hook: %v: %s", err, p.log)
	default:
	}
	close(stopped)
	if got := <-result; got != "200 <nil>" {
		t.Error(got)
	}
	if err := <-p.ended; err != nil {
		t.Errorf("%v: %s", err, p.log)
	}
}

// TestEnd: without hooks the relay ends at once, and what it is doing ends first.
func TestEnd(t *testing.T) {
	p := newPod(t, intercept.Default())
	asked, release := make(chan struct{}), make(chan struct{})
	p.app(":8080", func(http.ResponseWriter, *http.Request) { close(asked); <-release })
	p.probes(pod4, get(8080, "/"))
	result := make(chan int, 1)
	go func() {
		status, _, _ := p.get(ready)
		result <- status
	}()
	<-asked
	if err := p.relay.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	close(release)
	if status := <-result; status != 200 {
		t.Errorf("%d: %s", status, p.log)
	}
	if err := <-p.ended; err != nil {
		t.Errorf("%v: %s", err, p.log)
	}
}

// TestUsage: everything that is wrong is said at once, by its name.
func TestUsage(t *testing.T) {
	for _, tt := range []struct {
		args, env []string
		want      []string
	}{
		{[]string{"run"}, []string{"", ""}, []string{"MESH_PROBES: not set, or empty; write the probes", "MESH_PROBE_POD_IPS: empty"}},
		{[]string{"run"}, []string{"{", "10.0.0.1"}, []string{"MESH_PROBES: not the JSON"}},
		{[]string{"run"}, []string{`{"probes":[{"container":"a"}]}`, "10.0.0.1;x"},
			[]string{"MESH_PROBES: probes[0]: kind", `MESH_PROBE_POD_IPS: "10.0.0.1;x" is not an address`}},
		{[]string{"run", "--passthrough-sources", "127.0.0.6,127.0.0.7", "--drain", "x", "--listen", "y"},
			[]string{`{"probes":[]}`, "fd00::1"},
			[]string{"127.0.0.6 and 127.0.0.7 are of one family", `--drain: "x" is not a duration`, `--listen: "y" is not`}},
		{[]string{"run", "--lisen", ":1"}, []string{`{"probes":[]}`, "fd00::1"}, []string{"--lisen", "--listen"}},
		{nil, []string{"", ""}, []string{"no verb given: write mesh-probe run"}},
	} {
		env := map[string]string{probes.Env: tt.env[0], probes.PodIPs: tt.env[1]}
		var out, errs bytes.Buffer
		code := run(t.Context(), tt.args, func(name string) string { return env[name] }, &out, &errs)
		for _, want := range tt.want {
			if code != 2 || !strings.Contains(errs.String(), want) {
				t.Errorf("%v: %d, %s; want %s", tt.args, code, errs.String(), want)
			}
		}
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	env := map[string]string{probes.Env: `{"probes":[]}`, probes.PodIPs: "10.0.0.1"}
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"run", "--listen", taken.Addr().String()}, func(name string) string { return env[name] },
		&out, &errs); code == 0 || !strings.Contains(errs.String(), "address already in use; --listen names another address") {
		t.Errorf("%d, %s", code, errs.String())
	}
	errs.Reset()
	if code := run(t.Context(), []string{"version"}, os.Getenv, &out, &errs); code != 0 ||
		!strings.HasPrefix(out.String(), "mesh-probe ") {
		t.Errorf("%d, %s%s", code, out.String(), errs.String())
	}
}
