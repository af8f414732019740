package watching

import (
	"net/netip"
	"testing"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/conntrack"
	"github.com/mesh-intercept/intercept/internal/links"
	"github.com/mesh-intercept/intercept/internal/nfevents"
	"github.com/mesh-intercept/intercept/ruleset"
)

// TestJudge: what is captured, what passes, and what passes although it should not, or although its sender is captured.
func TestJudge(t *testing.T) {
	c := intercept.Default()
	c.Outbound.ExcludeUIDs = intercept.IDs{{First: 7, Last: 7}}
	var j Judge
	if err := j.Use(&c); err != nil {
		t.Fatal(err)
	}
	j.Place([]links.Link{{Name: "eth0", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.5")}}})
	gid := func(n uint32) *uint32 { return &n }
	app, proxy := &Sender{UID: 1000, GID: gid(1000)}, &Sender{UID: 1337}
	for _, tt := range []struct {
		name                             string
		protocol                         ruleset.Protocol
		src, dst, to                     string // to: where NAT has sent it
		sender                           *Sender
		direction                        string
		captured, uncaptured, unexpected bool
		rule                             ruleset.RuleID
	}{
		{"captured", ruleset.TCP, "10.0.0.5:40000", "8.8.8.8:443", "127.0.0.1:15001", app, Outbound, true, false, false, "O12"},
		{"UDP", ruleset.UDP, "10.0.0.5:40000", "8.8.8.8:443", "", app, Outbound, false, true, false, "O14"},
		{"past the rules", ruleset.TCP, "10.0.0.5:40000", "8.8.8.8:443", "", app, Outbound, false, true, true, "O12"},
		{"the proxy", ruleset.TCP, "10.0.0.5:40000", "8.8.8.8:443", "", proxy, Outbound, false, false, false, "O4.uid"},
		{"an excluded user", ruleset.TCP, "10.0.0.5:40000", "8.8.8.8:443", "", &Sender{UID: 7, GID: gid(7)}, Outbound, false, false,
			false, "O7.excluded-uid"},
		{"nobody knows", ruleset.TCP, "10.0.0.5:40000", "8.8.8.8:443", "", nil, Outbound, false, false, false, ""},
		{"another's NAT", ruleset.TCP, "10.0.0.5:40000", "10.0.0.5:5432", "10.9.9.9:5432", app, Inside, false, false, false, ""},
		{"inside", ruleset.TCP, "10.0.0.5:40000", "10.0.0.5:8080", "", app, Inside, false, false, false, "O6"},
		{"inbound", ruleset.TCP, "10.0.0.9:40000", "10.0.0.5:8080", "10.0.0.5:15006", nil, Inbound, true, false, false, "I7"},
		{"let in", ruleset.TCP, "10.0.0.9:40000", "10.0.0.5:15021", "", nil, Inbound, false, false, false, "I6"},
	} {
		o := conntrack.Ends{Protocol: tt.protocol, Src: netip.MustParseAddrPort(tt.src), Dst: netip.MustParseAddrPort(tt.dst)}
		f := nfevents.Flow{Change: nfevents.Began, Entry: conntrack.Entry{
			Original: o, Reply: o.Reverse()}}
		if tt.to != "" {
			f.Reply.Src = netip.MustParseAddrPort(tt.to)
		}
		got := j.Flow(time.Time{}, f, tt.sender)
		if got.Direction != tt.direction || got.Captured != tt.captured || got.Uncaptured != tt.uncaptured ||
			got.Unexpected != tt.unexpected || got.Rule != tt.rule {
			t.Errorf("%s: %+v", tt.name, got)
		}
	}
	// Of what conntrack has picked up in its midst, nothing is said of rules: here the server has sent first.
	for state, want := range map[string]bool{"ESTABLISHED": true, "FIN_WAIT": true, "SYN_SENT": false} {
		o := conntrack.Ends{Protocol: ruleset.TCP, Src: netip.MustParseAddrPort("10.0.0.9:9100"),
			Dst: netip.MustParseAddrPort("10.0.0.5:39304")}
		f := nfevents.Flow{Entry: conntrack.Entry{Original: o, Reply: o.Reverse(), TCPState: state}}
		if got := j.Flow(time.Time{}, f, nil); got.Resumed != want || got.Unexpected == want || (got.Rule == "") != want {
			t.Errorf("%s: %+v", state, got)
		}
	}
	// Without a configuration nothing is said of rules.
	if err := j.Use(nil); err != nil {
		t.Fatal(err)
	}
	o := conntrack.Ends{Protocol: ruleset.TCP, Src: netip.MustParseAddrPort("10.0.0.5:1"), Dst: netip.MustParseAddrPort("8.8.8.8:2")}
	f := nfevents.Flow{Entry: conntrack.Entry{Original: o, Reply: o.Reverse()}}
	if got := j.Flow(time.Time{}, f, app); got.Rule != "" || got.Uncaptured || got.Unexpected {
		t.Errorf("%+v", got)
	}
}
