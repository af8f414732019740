package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/internal/explain"
	"github.com/mesh-intercept/intercept/internal/pcapng"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/version"
	"github.com/mesh-intercept/intercept/ruleset"
)

const (
	groupTrace decode.Group = "How long and how much to look"

	forFlag   = "for"
	countFlag = "count"
	pcapFlag  = "pcap"

	defaultFor = 10 * time.Second
	maxFor     = 10 * time.Minute
	maxWatch   = 24 * time.Hour
	maxCount   = 100000
)

func traceVerb() verb {
	return verb{cli.Verb{
		Name: "trace", Does: "follow real packets through the rules in force",
		Also: []string{"follow", "tcpdump", "capture", "sniff", "monitor"},
		More: "It says of each packet which rules it meets, everybody's, what becomes of it, and what NAT\n" +
			"makes of its addresses. Without flags that describe a flow it follows what opens connections.\n" +
			"A table of its own (inet " + dataplane.TraceTable + ") says which packets to follow, and goes with it.",
		Flags: traceFlags,
		Examples: `
  What happens to this call of the app? Make it within 10 seconds:
    mesh-init trace -n /run/netns/pod --dst 10.1.2.3:443
  What opens connections in the pod, as a file for Wireshark:
    mesh-init trace -n pid:4711 --for 1m --pcap pod.pcapng
`}, job.trace}
}

func traceFlags() []cli.Flag {
	return append(append(netnsFlags(), packetRows()...), append(forFlags(), once(
		row(countFlag, "NUMBER", groupTrace, "100", "how many packets at most"),
		row(pcapFlag, "FILE", groupTrace, "",
			"also write the packets' headers there, with comments\nthat name rules and fate (pcapng, as Wireshark reads)"),
	)...)...)
}

// forFlags are the flags of verbs that look for a time.
func forFlags() []cli.Flag {
	return once(row(forFlag, "DURATION", groupTrace, "",
		"for how long; trace: 10s if not given, at most 10m;\nwatch: until Ctrl-C, or so long, at most 24h"))
}

// observation says what to look at, and for how long.
type observation struct {
	flow   dataplane.TraceFlow
	from   string
	during time.Duration
	count  int
	pcap   string
	repair bool
}

// observationOf reads the flags of trace and watch.
func observationOf(values map[string]setting) (o observation, all error) {
	var errs []error
	fail := func(name, format string, args ...any) {
		errs = append(errs, fmt.Errorf("--%s: "+format, append([]any{name}, args...)...))
	}
	text := func(name string) string { return values[name].text }
	_, traces := values[countFlag]
	if o.during = maxWatch; traces {
		o.during = defaultFor
	}
	var err error
	if text(forFlag) != "" {
		o.during, err = time.ParseDuration(text(forFlag))
	}
	switch {
	case err != nil || o.during <= 0:
		fail(forFlag, "%q is not a duration above 0; write one like 30s or 2m", text(forFlag))
	case traces && o.during > maxFor:
		fail(forFlag, "%s is longer than 10m; take a shorter time", text(forFlag))
	case o.during > maxWatch:
		fail(forFlag, "%s is longer than 24h; take a shorter time", text(forFlag))
	}
	if !traces {
		o.repair = text(repairFlag) == "true"
		return o, errors.Join(errs...)
	}
	if o.count, err = strconv.Atoi(text(countFlag)); err != nil || o.count < 1 || o.count > maxCount {
		fail(countFlag, "%q is not a number from 1 to %d", text(countFlag), maxCount)
	}
	o.pcap = text(pcapFlag)
	text = func(name string) string { // what is not given is any; the defaults are those of a packet to explain
		if !values[name].given {
			return ""
		}
		return values[name].text
	}
	o.from, o.flow.Interface = text("from"), text("interface")
	if o.flow.Interface != "" {
		if err := ruleset.ValidateInterface(o.flow.Interface); err != nil {
			fail("interface", "%w", err)
		}
	}
	o.flow.ToSelf = text("to-self") == "true"
	for name, end := range map[string]*netip.AddrPort{dstFlag: &o.flow.Dst, "src": &o.flow.Src} {
		if text(name) != "" {
			if *end, err = explain.ParseEndpoint(text(name), text("proto"), false); err != nil {
				fail(name, "%w", err)
			}
		}
	}
	dst, src := o.flow.Dst.Addr(), o.flow.Src.Addr()
	if dst.IsValid() && src.IsValid() && dst.Is4() != src.Is4() {
		fail("src", "%s and --dst %s are of different families", src, dst)
	}
	switch text("proto") {
	case "tcp":
		o.flow.Protocol = intercept.TCP
	case "udp":
		o.flow.Protocol = intercept.UDP
	case "icmp":
		o.flow.Protocol = intercept.ICMP
		if dst.Is6() || src.Is6() {
			o.flow.Protocol = intercept.ICMPv6
		}
	case "":
		if o.flow.Dst.Port() != 0 || o.flow.Src.Port() != 0 {
			o.flow.Protocol = intercept.TCP
		}
	}
	switch o.from {
	case "outside":
		o.flow.Hook = intercept.Prerouting
	case "app", "proxy":
		o.flow.Hook = intercept.Output
	}
	sender := func(name string) (uint32, bool) {
		if text(name) == "" {
			return 0, false
		}
		if o.from == "outside" || o.from == "proxy" && name != "mark" {
			fail(name, "%s: with --from %s there is no choice of a sender; leave one of them out", text(name), o.from)
		}
		o.flow.Hook = intercept.Output
		n, err := strconv.ParseUint(text(name), 0, 32)
		if err != nil {
			fail(name, "%q is not a number", text(name))
		}
		return uint32(n), true
	}
	// All that is given has to hold: the flow has one sender.
	var sent []ruleset.Match
	if id, ok := sender("uid"); ok {
		sent = append(sent, ruleset.UID{{First: id, Last: id}})
	}
	if id, ok := sender("gid"); ok {
		sent = append(sent, ruleset.GID{{First: id, Last: id}})
	}
	if mark, ok := sender("mark"); ok {
		sent = append(sent, ruleset.MetaMark{Value: mark, Mask: 1<<32 - 1})
	}
	if len(sent) > 0 {
		o.flow.Senders = [][]ruleset.Match{sent}
	}
	return o, errors.Join(errs...)
}

// proxyIs are the conditions by which what the proxy sends is known: any one suffices.
func proxyIs(p intercept.Proxy) (each [][]ruleset.Match) {
	if len(p.UIDs) > 0 {
		each = append(each, []ruleset.Match{ruleset.UID(p.UIDs)})
	}
	if len(p.GIDs) > 0 {
		each = append(each, []ruleset.Match{ruleset.GID(p.GIDs)})
	}
	if p.Mark.Mask != 0 {
		each = append(each, []ruleset.Match{ruleset.MetaMark(p.Mark)})
	}
	return each
}

// trace follows packets, and tells of each as soon as nothing more is heard of it.
func (j job) trace() (err error) {
	j.begin()
	o := j.observation
	if o.from == "app" || o.from == "proxy" {
		c := intercept.Default()
		kept, err := j.plane.InForce(j.ctx)
		switch {
		case err == nil:
			c = kept.Config
		case errors.Is(err, intercept.ErrNotIntercepted), errors.Is(err, dataplane.ErrNotKept):
			j.log.WarnContext(j.ctx, "it is not known who the proxy is: user and group 1337 is taken for it", "why", err.Error())
		default:
			return err
		}
		if o.from == "app" {
			o.flow.Except = proxyIs(c.Proxy)
		} else {
			o.flow.Senders = both(proxyIs(c.Proxy), o.flow.Senders)
		}
	}
	var capture *pcapng.Writer
	if o.pcap != "" {
		file, err := os.OpenFile(o.pcap, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return cli.UsageError{Err: fmt.Errorf("--%s: %w", pcapFlag, err)}
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		where := j.target.NetNS
		if where == "" {
			where = "the pod"
		}
		if capture, err = pcapng.NewWriter(file, "mesh-init "+version.Short(), where); err != nil {
			return fmt.Errorf("--%s: %w", pcapFlag, err)
		}
	}
	ctx, stop := signal.NotifyContext(j.ctx, endings()...)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, o.during)
	defer cancel()
	summary, err := j.plane.Trace(ctx, dataplane.TraceOptions{
		Flow: o.flow, Count: o.count,
		Note:  func(text string) { j.log.WarnContext(ctx, text) },
		Ready: func() { j.log.InfoContext(ctx, fmt.Sprintf("tracing for %s: make the call now", o.during)) },
		Tell: func(r dataplane.TraceRecord) error {
			if capture != nil && r.Packet != nil {
				p := r.Packet
				if err := capture.Write(pcapng.Packet{At: p.At, Data: p.Data(), Length: p.Length, Comment: p.Comment(),
					Out: p.Hook == intercept.Output.String()}); err != nil {
					return fmt.Errorf("--%s: %w", pcapFlag, err)
				}
			}
			return j.tell(r, func() string { return traceText(r, j.style) })
		},
	})
	if errors.Is(err, syscall.EPIPE) {
		return nil
	}
	if err != nil {
		return err
	}
	if summary.Lost > 0 {
		j.log.WarnContext(j.ctx, fmt.Sprintf("%d events were lost: the kernel had more to tell than could be read; describe the flow "+
			"more closely", summary.Lost))
	}
	if summary.Packets == 0 {
		return errNoPacket
	}
	return nil
}

// both are the lists in which all of one of each holds. None of the second leaves the first.
func both(a, b [][]ruleset.Match) (all [][]ruleset.Match) {
	if len(b) == 0 {
		return a
	}
	for _, x := range a {
		for _, y := range b {
			all = append(all, slices.Concat(x, y))
		}
	}
	return all
}

// tell writes one result of several at once: as a line of JSON, a document of YAML or text.
func (j job) tell(v any, text func() string) error {
	var b bytes.Buffer
	var err error
	switch j.output {
	case cli.JSON:
		var line []byte
		if line, err = json.Marshal(v); err == nil {
			b.Write(append(strict.EscapeJSON(line), '\n'))
		}
	case cli.YAML:
		b.WriteString("---\n")
		err = j.output.Write(&b, v, nil)
	default:
		b.WriteString(text())
	}
	if err == nil {
		err = j.now(b.String())
	}
	if err != nil {
		return fmt.Errorf("the result could not be written: %w", err)
	}
	return nil
}

// clock is how times of the day are written.
const clock = "15:04:05.000000"

// endText leaves out a port that there is not.
func endText(a netip.AddrPort) string {
	if a.Port() == 0 {
		return a.Addr().String()
	}
	return a.String()
}

// traceText says a record to people: a packet in a block, with a line for each rule that it met.
func traceText(r dataplane.TraceRecord, style cli.Style) string {
	var text strings.Builder
	if c := r.Connection; c != nil {
		fmt.Fprintf(&text, "%s conntrack: %s", c.At.Format(clock), c.Change)
		if c.State != "" {
			text.WriteString(" " + c.State)
		}
		fmt.Fprintf(&text, ": %s %s -> %s", c.Protocol, endText(c.Src), endText(c.Dst))
		if c.Answers != c.Dst {
			fmt.Fprintf(&text, ", sent to %s", c.Answers)
		}
		if c.Mark != 0 {
			fmt.Fprintf(&text, ", mark %#x", c.Mark)
		}
		if c.Zone != 0 {
			fmt.Fprintf(&text, ", zone %d", c.Zone)
		}
		text.WriteString("\n")
	}
	p := r.Packet
	if p == nil {
		return text.String()
	}
	way := "leaving by"
	if p.Hook == intercept.Prerouting.String() {
		way = "arriving by"
	}
	flags := ""
	if p.Flags != "" {
		flags = " " + p.Flags
	}
	fmt.Fprintf(&text, "%s %s %s -> %s%s, %s %s\n", p.At.Format(clock), p.Protocol, endText(p.Src), endText(p.Dst), flags, way,
		strict.OneLine(p.Interface))
	line := func(label, styled, more string) {
		text.WriteString(cli.Hang("  "+styled+strings.Repeat(" ", 8-len(label)), 10, strict.OneLine(more)))
	}
	line("fate:", style.Strong("fate:"), p.Verdict())
	if p.After != nil {
		line("NAT:", "NAT:", p.After.Src.String()+" -> "+p.After.Dst.String())
	}
	for i, s := range p.Steps {
		label := ""
		if i == 0 {
			label = "path:"
		}
		line(label, label, s.String())
	}
	return text.String()
}
