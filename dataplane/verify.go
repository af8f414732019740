package dataplane

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/ruleset"
)

// Verdict is what Verify finds of one thing.
type Verdict struct {
	What string `json:"what"`
	OK   bool   `json:"ok"`
	// Found says what was seen, and what to do about it if it is not OK.
	Found string `json:"found"`
}

// Verify finds out whether interception works under c: whether the rules are
// as Apply leaves them, whether somebody listens where they send connections
// to, and whether a connection that has to be captured is. For the last it
// opens some, to addresses nobody has (RFC 5737, RFC 3849), that do not get
// beyond the node if they are not captured: their hop limit is 1.
func (s *Session) Verify(ctx context.Context, c intercept.Config) (verdicts []Verdict, err error) {
	p, err := newPlan(c)
	if err != nil {
		return nil, err
	}
	err = s.do(ctx, func() error {
		verdicts, err = s.space.verify(ctx, s.pod.Backend, p)
		return err
	})
	return verdicts, err
}

func (s *space) verify(ctx context.Context, want Backend, plan plan) ([]Verdict, error) {
	c, rs := plan.config, plan.rules
	diffs, err := s.check(ctx, want, plan)
	if err != nil && !errors.Is(err, ruleset.ErrNotIntercepted) {
		return nil, err
	}
	rules := Verdict{What: "rules", OK: err == nil && len(diffs) == 0, Found: "as this configuration makes them"}
	switch {
	case err != nil:
		rules.Found = err.Error() + "; run mesh-init apply there"
	case len(diffs) > 0:
		rules.Found = fmt.Sprintf("%d differences, the first: %s; mesh-init check names all, and mesh-init apply puts them right", len(diffs), diffs[0])
	}
	verdicts := []Verdict{rules}
	sockets, err := listSockets()
	if err != nil {
		return nil, err
	}
	for _, l := range listeners(c, rs.Families) {
		verdicts = append(verdicts, l.judge(sockets, c.Proxy))
	}
	for _, f := range rs.Families {
		p, trace, ok := toTry(rs, f)
		if !ok {
			continue
		}
		v, err := s.try(ctx, want, &plan, p, trace)
		if err != nil {
			return nil, err
		}
		verdicts = append(verdicts, v)
	}
	return verdicts, nil
}

// listener is a socket that rules send connections to.
type listener struct {
	what     string
	protocol ruleset.Protocol
	addr     netip.Addr // one that it has to be reachable at
	port     uint16
	isProxy  bool // it has to belong to the proxy
}

// listeners returns the sockets that c needs.
func listeners(c intercept.Config, families []ruleset.Family) []listener {
	var all []listener
	for _, f := range families {
		localhost := netip.AddrFrom4([4]byte{127, 0, 0, 1})
		if f == ruleset.IPv6 {
			localhost = netip.IPv6Loopback()
		}
		ports := func(what string, r ruleset.PortRange) {
			for p := int(r.First); p <= int(r.Last); p++ {
				all = append(all, listener{what + ", " + f.String(), ruleset.TCP, localhost, uint16(p), false})
			}
		}
		if len(c.Outbound.Target) == 0 && len(c.Outbound.IncludeCIDRs)+len(c.Outbound.IncludePorts) > 0 {
			ports("outbound proxy port", c.Outbound.Port)
		}
		if c.Inbound.Mode != intercept.InboundOff {
			ports("inbound proxy port", c.Inbound.Port)
		}
		if c.DNS.Mode != intercept.DNSOff && len(c.DNS.Target) == 0 {
			for _, p := range []ruleset.Protocol{ruleset.UDP, ruleset.TCP} {
				all = append(all, listener{"DNS port, " + strings.ToUpper(p.String()) + ", " + f.String(), p, localhost, c.DNS.Port, true})
			}
		}
	}
	return all
}

// socket is a line of /proc/net/tcp and its siblings (proc_pid_net(5)).
type socket struct {
	protocol ruleset.Protocol
	local    netip.AddrPort
	uid      uint32
}

// serves reports whether the socket gets what is sent to addr and port. One
// bound to :: is taken to serve IPv4, too, as it does unless told not to.
func (s socket) serves(p ruleset.Protocol, addr netip.Addr, port uint16) bool {
	local := s.local.Addr()
	return s.protocol == p && s.local.Port() == port &&
		(local == addr || local == netip.IPv6Unspecified() || local == netip.IPv4Unspecified() && addr.Is4())
}

func (e listener) judge(sockets []socket, proxy intercept.Proxy) Verdict {
	v := Verdict{What: fmt.Sprintf("%s %d", e.what, e.port)}
	i := slices.IndexFunc(sockets, func(s socket) bool { return s.serves(e.protocol, e.addr, e.port) })
	if i < 0 {
		v.Found = fmt.Sprintf("nobody listens at %s, so connections are refused until the proxy does", netip.AddrPortFrom(e.addr, e.port))
		return v
	}
	v.OK, v.Found = true, fmt.Sprintf("user %d listens at %s", sockets[i].uid, sockets[i].local)
	if e.isProxy && len(proxy.GIDs) == 0 && proxy.Mark.Mask == 0 && !proxy.UIDs.Contains(sockets[i].uid) {
		v.OK = false
		v.Found += fmt.Sprintf(", who is not the proxy (%s): its own lookups come back to it, and its answers get lost", proxy.UIDs)
	}
	return v
}

// listSockets lists the listening TCP and the unconnected UDP sockets of the
// namespace of the calling thread.
func listSockets() ([]socket, error) {
	var all []socket
	for _, file := range []struct {
		name     string
		protocol ruleset.Protocol
		state    string // TCP_LISTEN, TCP_CLOSE of net/tcp_states.h
	}{{"tcp", ruleset.TCP, "0A"}, {"tcp6", ruleset.TCP, "0A"}, {"udp", ruleset.UDP, "07"}, {"udp6", ruleset.UDP, "07"}} {
		text, err := os.ReadFile("/proc/thread-self/net/" + file.name)
		if errors.Is(err, os.ErrNotExist) {
			continue // no IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("list the sockets of the namespace: %w", err)
		}
		for line := range strings.Lines(string(text)) {
			fields := strings.Fields(line)
			if len(fields) < 8 || fields[3] != file.state {
				continue
			}
			local, err := parseSocket(fields[1])
			if err != nil {
				return nil, fmt.Errorf("list the sockets of the namespace: %q: %w", fields[1], err)
			}
			uid, err := strconv.ParseUint(fields[7], 10, 32)
			if err != nil {
				return nil, fmt.Errorf("list the sockets of the namespace: %w", err)
			}
			all = append(all, socket{file.protocol, local, uint32(uid)})
		}
	}
	return all, nil
}

// parseSocket reads 0100007F:3A99: words of four bytes in the host's order,
// and a port.
func parseSocket(s string) (netip.AddrPort, error) {
	addr, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(addr)
	if err != nil {
		return netip.AddrPort{}, err
	}
	for i := 0; i+4 <= len(b); i += 4 {
		binary.BigEndian.PutUint32(b[i:], binary.NativeEndian.Uint32(b[i:]))
	}
	a, ok := netip.AddrFromSlice(b)
	n, err := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil {
		return netip.AddrPort{}, errors.New("not an address and a port")
	}
	return netip.AddrPortFrom(a, uint16(n)), nil
}

// toTry returns the first packet of a connection that this process could open
// to an address of a family that nobody has, and that rs captures.
func toTry(rs ruleset.Ruleset, f ruleset.Family) (ruleset.Packet, ruleset.Trace, bool) {
	dsts, src := []string{"192.0.2.1", "198.51.100.1", "203.0.113.1"}, netip.MustParseAddrPort("192.0.2.254:40000")
	if f == ruleset.IPv6 {
		dsts, src = []string{"2001:db8::1", "2001:db8:ffff::1"}, netip.MustParseAddrPort("[2001:db8::fffe]:40000")
	}
	p := ruleset.Packet{Hook: ruleset.Output, Protocol: ruleset.TCP, Interface: "eth0", Src: src,
		Owner: &ruleset.Owner{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}}
	for _, dst := range dsts {
		for _, port := range []uint16{80, 443, 8080, 9} {
			p.Dst = netip.AddrPortFrom(netip.MustParseAddr(dst), port)
			if trace, err := rs.Trace(p); err == nil && trace.Fate.Action == ruleset.Redirected {
				return p, trace, true
			}
		}
	}
	return ruleset.Packet{}, ruleset.Trace{}, false
}

// try opens a connection that has to be captured. That it is accepted is not
// enough, since somebody may have the address after all: the rule that
// captures it has to count it.
func (s *space) try(ctx context.Context, want Backend, like *plan, p ruleset.Packet, trace ruleset.Trace) (Verdict, error) {
	v := Verdict{What: "a connection to " + p.Dst.String()}
	count := func() (n uint64, err error) {
		status, err := s.status(ctx, want, like)
		if errors.Is(err, ruleset.ErrNotIntercepted) {
			return 0, nil
		}
		for _, c := range status.Counters {
			if c.Rule == trace.Rule {
				n += c.Packets
			}
		}
		return n, err
	}
	before, err := count()
	if err != nil {
		return v, err
	}
	connErr := connect(ctx, p.Dst, 2*time.Second)
	after, err := count()
	if err != nil {
		return v, err
	}
	switch counted := after > before; {
	case connErr == nil && counted:
		v.OK, v.Found = true, "captured and accepted"
	case counted:
		v.Found = fmt.Sprintf("captured, but not accepted (%v)", connErr)
	default:
		v.Found = "not captured: no rule has counted it"
	}
	return v, nil
}

// connect opens a connection that does not get beyond the first hop.
func connect(ctx context.Context, dst netip.AddrPort, wait time.Duration) error {
	domain, level, option := unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS
	var to unix.Sockaddr = &unix.SockaddrInet6{Port: int(dst.Port()), Addr: dst.Addr().As16()}
	if dst.Addr().Is4() {
		domain, level, option = unix.AF_INET, unix.IPPROTO_IP, unix.IP_TTL
		to = &unix.SockaddrInet4{Port: int(dst.Port()), Addr: dst.Addr().As4()}
	}
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.SetsockoptInt(fd, level, option, 1); err != nil {
		return err
	}
	if err := unix.Connect(fd, to); !errors.Is(err, unix.EINPROGRESS) {
		return err
	}
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	end := time.Now().Add(wait)
	if deadline, ok := ctx.Deadline(); ok && deadline.Before(end) {
		end = deadline
	}
	for {
		// In pieces, to see that ctx has ended.
		n, err := unix.Poll(poll, int(min(max(time.Until(end), 0), 50*time.Millisecond)/time.Millisecond))
		if errors.Is(err, unix.EINTR) || err == nil && n == 0 && ctx.Err() == nil && time.Now().Before(end) {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return unix.ETIMEDOUT
		}
		break
	}
	errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	if errno != 0 {
		return unix.Errno(errno)
	}
	return nil
}
