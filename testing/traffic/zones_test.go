//go:build linux

// Package traffic holds tests of what people feel: lookups that get lost,
// connections that slip past the proxy or break while rules change.
package traffic

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

var (
	app   = &intercept.Owner{UID: 1000, GID: 1000}
	proxy = &intercept.Owner{UID: 1337, GID: 1337}
)

// zoneResult counts what became of lookups.
type zoneResult struct{ answered, lost, crossed atomic.Int64 }

func (z *zoneResult) String() string {
	return fmt.Sprintf("%d answered, %d lost, %d crossed", z.answered.Load(), z.lost.Load(), z.crossed.Load())
}

// TestZones: the application and the proxy ask the same server from the same
// source address and port, at the same moment, thousands of times. Every
// question is answered, the application's by the resolver in the sidecar and
// the proxy's by the server.
//
// Without the two raw chains the test fails: TestZonesAreNeeded takes them out
// and sees questions lost or crossed. Conntrack then knows one connection for
// both sockets, and the second one's packets go where the first one's went.
func TestZones(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		result := asking{ports: 32, rounds: 100}.fromSharedPorts(t, w)
		t.Log(result)
		if result.lost.Load() > 0 || result.crossed.Load() > 0 {
			t.Error("lookups were lost or crossed")
		}
	})
}

// TestZonesAreNeeded is TestZones without the rules that make it pass.
func TestZonesAreNeeded(t *testing.T) {
	withoutZones := func(rs *intercept.Ruleset) {
		rs.Chains = slices.DeleteFunc(slices.Clone(rs.Chains), func(c intercept.Chain) bool {
			return c.Priority == intercept.PriorityRaw
		})
	}
	result := asking{change: withoutZones, ports: 4, rounds: 3}.fromSharedPorts(t, byNFT)
	t.Log(result)
	if result.lost.Load()+result.crossed.Load() == 0 {
		t.Error("without zones nothing was lost or crossed: TestZones proves nothing")
	}
}

// asking is how the application and the proxy ask.
type asking struct {
	set    func(*intercept.Config)  // nil: the defaults
	change func(*intercept.Ruleset) // nil: not at all
	// answers reports whether who answered is right. Nil: the resolver in the
	// sidecar answers the application, and the server the proxy.
	answers func(b netlab.Banner, proxy bool) bool
	ports   int // so many of each family
	rounds  int
}

func (a asking) fromSharedPorts(t *testing.T, w way) *zoneResult {
	lab, b := labWithSidecar(t, w)
	c := intercept.Default()
	c.DNS.Mode = intercept.DNSAll
	if a.set != nil {
		a.set(&c)
	}
	rs, err := intercept.Compile(c)
	if err != nil {
		t.Fatal(err)
	}
	if a.change != nil {
		a.change(&rs)
	}
	apply(t, b, rs)
	if a.answers == nil {
		a.answers = func(b netlab.Banner, proxy bool) bool {
			return b.Role == map[bool]netlab.Role{false: netlab.RoleDNS, true: netlab.RolePeer}[proxy]
		}
	}

	var result zoneResult
	var wg sync.WaitGroup
	for _, ends := range []struct{ src, dst string }{{"10.244.0.5", "10.96.0.10"}, {"fd00:244::5", "fd00:96::a"}} {
		dst := netip.AddrPortFrom(netip.MustParseAddr(ends.dst), 53)
		for i := range a.ports {
			src := netip.AddrPortFrom(netip.MustParseAddr(ends.src), uint16(41000+i))
			pair := sharedPort{sharedSocket(t, lab, app, src, dst), sharedSocket(t, lab, proxy, src, dst)}
			wg.Go(func() { pair.lookUp(t, a, &result) })
		}
	}
	wg.Wait()
	return &result
}

// sharedPort is a source address and port that the application and the proxy
// use both.
//
// Of two sockets bound and connected alike the kernel gives what arrives to
// either. So it does not matter here which of them an answer comes to, only
// whose question it answers and who gave it.
type sharedPort struct{ app, proxy net.Conn }

// lookUp asks with both sockets at once and waits for both answers.
func (p sharedPort) lookUp(t *testing.T, asks asking, result *zoneResult) {
	answers := make(chan answer)
	var readers sync.WaitGroup
	for _, conn := range []net.Conn{p.app, p.proxy} {
		readers.Go(func() { readAnswers(conn, answers) })
	}
	for round := range asks.rounds {
		// The application's questions have even IDs, the proxy's odd ones.
		id := uint16(2 * round)
		for i, conn := range []net.Conn{p.app, p.proxy} {
			if err := ask(conn, id+uint16(i)); err != nil {
				t.Error(err)
			}
		}
		deadline := time.After(3 * time.Second)
		for left := 2; left > 0; {
			select {
			case a := <-answers:
				switch {
				case a.id/2 != id/2: // late: it was counted as lost
				case !asks.answers(a.Banner, a.id%2 == 1):
					result.crossed.Add(1)
					left--
				default:
					result.answered.Add(1)
					left--
				}
			case <-deadline:
				result.lost.Add(int64(left))
				left = 0
			}
		}
	}
	_ = p.app.Close() // ends the readers
	_ = p.proxy.Close()
	go func() {
		readers.Wait()
		close(answers)
	}()
	for range answers {
	}
}

// sharedSocket returns a UDP socket that shares its source with another.
func sharedSocket(t testing.TB, lab *netlab.Lab, owner *intercept.Owner, src, dst netip.AddrPort) net.Conn {
	t.Helper()
	domain := unix.AF_INET
	if dst.Addr().Is6() {
		domain = unix.AF_INET6
	}
	fd, err := lab.Pod.Socket(domain, unix.SOCK_DGRAM, owner)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "udp")
	defer file.Close()
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err := errors.Join(err, unix.Bind(fd, netlab.Sockaddr(src)), unix.Connect(fd, netlab.Sockaddr(dst))); err != nil {
		t.Fatal(err)
	}
	conn, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// ask asks who answers.
func ask(conn net.Conn, id uint16) error {
	query := dnsmessage.Message{
		Header: dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("who.test."),
			Type: dnsmessage.TypeTXT, Class: dnsmessage.ClassINET}},
	}
	b, err := query.Pack()
	if err != nil {
		return err
	}
	_, err = conn.Write(b)
	return err
}

// answer is who answered which question.
type answer struct {
	id uint16
	netlab.Banner
}

// readAnswers reads answers until conn is closed.
func readAnswers(conn net.Conn, answers chan<- answer) {
	buf := make([]byte, 2048)
	for {
		n, err := conn.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error: the question will count as lost
		}
		var m dnsmessage.Message
		var banner netlab.Banner
		if m.Unpack(buf[:n]) != nil || len(m.Answers) != 1 {
			continue
		}
		txt, ok := m.Answers[0].Body.(*dnsmessage.TXTResource)
		if ok && json.Unmarshal([]byte(strings.Join(txt.TXT, "")), &banner) == nil {
			answers <- answer{m.ID, banner}
		}
	}
}
