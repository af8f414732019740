package nfevents

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/mesh-intercept/intercept/internal/conntrack"
	"github.com/mesh-intercept/intercept/ruleset"
)

func attr(typ uint16, value ...byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
	b = append(binary.NativeEndian.AppendUint16(b, typ), value...)
	return append(b, make([]byte, (4-len(b)%4)%4)...)
}

func message(typ, flags uint16, family byte, attrs ...[]byte) []byte {
	body := []byte{family, 0, 0, 0}
	for _, a := range attrs {
		body = append(body, a...)
	}
	b := binary.NativeEndian.AppendUint32(nil, uint32(headerSize+len(body)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, flags)
	return append(append(b, make([]byte, 8)...), body...)
}

func be32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

func ipv4(protocol byte, transport ...byte) []byte {
	b := make([]byte, 20)
	b[0], b[9], b[3] = 0x45, protocol, byte(20+len(transport))
	copy(b[12:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
	return append(b, transport...)
}

func tuple(src, dst byte, from, to uint16) []byte {
	ip := append(attr(1, 10, 0, 0, src), attr(2, 10, 0, 0, dst)...)
	proto := attr(1, 6)
	proto = append(proto, attr(2, binary.BigEndian.AppendUint16(nil, from)...)...)
	proto = append(proto, attr(3, binary.BigEndian.AppendUint16(nil, to)...)...)
	return append(attr(1|0x8000, ip...), attr(2|0x8000, proto...)...)
}

// datagram has one message of each kind.
func datagram() []byte {
	tcp := []byte{0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0xa0, 2, 0, 0, 0, 0, 0, 0}
	verdict := append(attr(1, be32(^uint32(3)+0)...), attr(2, []byte("syn\x00")...)...) // -4, goto
	var b []byte
	for _, m := range [][]byte{
		message(10<<8|17, 0, 1, attr(1, []byte("mesh_intercept\x00")...), attr(2, []byte("output\x00")...),
			attr(3, 0, 0, 0, 0, 0, 0, 0, 7), attr(4, be32(3)...), attr(5|0x8000, verdict...), attr(6, be32(99)...),
			attr(8, ipv4(6)...), attr(9, tcp...), attr(12, be32(2)...), attr(14, be32(5)...)),
		message(10<<8|6, 0, 2, attr(1, []byte("nat\x00")...)),
		message(10<<8|15, 0, 0, attr(1, be32(8)...), attr(2, be32(4711)...), attr(3, []byte("nft\x00")...)),
		message(1<<8, 0x600, 2, attr(1|0x8000, tuple(1, 2, 40000, 80)...), attr(2|0x8000, tuple(3, 1, 15001, 40000)...),
			attr(4|0x8000, attr(1|0x8000, attr(1, 1)...)...), attr(8, be32(6)...), attr(18, 0, 2)),
		message(4<<8, 0, 2, attr(10, []byte("TRACE: nat:OUTPUT:rule:3 \x00")...), attr(5, be32(2)...), attr(9, ipv4(6, tcp...)...)),
		message(4<<8, 0, 2, attr(10, []byte("somebody else's\x00")...), attr(9, ipv4(6, tcp...)...)),
	} {
		b = append(b, m...)
	}
	return b
}

func TestDecode(t *testing.T) {
	all := Decode(datagram())
	if len(all) != 5 {
		t.Fatalf("%d events: %+v", len(all), all)
	}
	a, b := netip.MustParseAddrPort("10.0.0.1:40000"), netip.MustParseAddrPort("10.0.0.2:80")
	if tr := all[0].Trace; tr.Table != "mesh_intercept" || tr.Chain != "output" || tr.Handle != 7 || tr.Kind != Rule ||
		tr.Verdict != Goto || tr.To != "syn" || tr.ID != 99 || tr.Header.Out != 2 || tr.Header.Mark != 5 {
		t.Errorf("%+v", tr)
	} else if e, ok := tr.Header.Ends(); !ok || e != (conntrack.Ends{Protocol: ruleset.TCP, Src: a, Dst: b}) {
		t.Errorf("%+v", e)
	} else if flags, ok := tr.Header.TCPFlags(); !ok || flags != ruleset.SYN {
		t.Errorf("flags %#x", flags)
	}
	if r := all[1].Rules; *r != (Rules{Family: 2, Table: "nat", Added: 1}) {
		t.Errorf("%+v", r)
	}
	if r := all[2].Rules; *r != (Rules{Generation: 8, PID: 4711, By: "nft"}) {
		t.Errorf("%+v", r)
	}
	f := all[3].Flow
	if to, is := f.Translated(); f.Change != Began || f.Original != (conntrack.Ends{Protocol: ruleset.TCP, Src: a, Dst: b}) || !is ||
		to != netip.MustParseAddrPort("10.0.0.3:15001") || f.TCPState != "SYN_SENT" || f.Mark != 6 || f.Zone != 2 {
		t.Errorf("%+v", f)
	}
	if l := all[4].Log; l.Table != "nat" || l.Chain != "OUTPUT" || l.Number != 3 || l.Kind != Rule || l.Header.Out != 2 {
		t.Errorf("%+v", l)
	} else if e, ok := l.Header.Ends(); !ok || e != (conntrack.Ends{Protocol: ruleset.TCP, Src: a, Dst: b}) || l.Header.Length() != 40 {
		t.Errorf("%+v", l.Header)
	}
}

func FuzzDecode(f *testing.F) {
	whole := datagram()
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Fuzz(func(_ *testing.T, b []byte) {
		for _, e := range Decode(b) {
			if e.Trace != nil {
				e.Trace.Header.Same()
				e.Trace.Header.TCPFlags()
			}
			if e.Log != nil {
				e.Log.Header.Same()
				e.Log.Header.TCPFlags()
			}
		}
	})
}
