package pcapng

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// parsed is a block as a reader finds it.
type parsed struct {
	typ     uint32
	body    []byte
	options map[uint16]string
}

// parse reads a capture by the rules of the format: lengths at both ends, four bytes each, options that end.
func parse(t *testing.T, b []byte, fixed map[uint32]int) (all []parsed) {
	t.Helper()
	for len(b) > 0 {
		if len(b) < 12 {
			t.Fatalf("%d bytes are left", len(b))
		}
		typ, length := binary.NativeEndian.Uint32(b), binary.NativeEndian.Uint32(b[4:])
		if length%4 != 0 || int(length) > len(b) || binary.NativeEndian.Uint32(b[length-4:]) != length {
			t.Fatalf("block %#x of %d bytes", typ, length)
		}
		p := parsed{typ: typ, body: b[8 : length-4], options: map[uint16]string{}}
		size, known := fixed[typ]
		if !known {
			t.Fatalf("block %#x", typ)
		}
		if typ == enhancedPacket {
			size += (int(binary.NativeEndian.Uint32(p.body[12:])) + 3) &^ 3
		}
		options := p.body[size:]
		for ended := false; !ended; {
			code, n := binary.NativeEndian.Uint16(options), int(binary.NativeEndian.Uint16(options[2:]))
			ended = code == 0
			if !ended {
				p.options[code] = string(options[4 : 4+n])
			}
			options = options[4+(n+3)&^3:]
		}
		if len(options) > 0 {
			t.Fatalf("block %#x: %d bytes after the options", typ, len(options))
		}
		all = append(all, p)
		b = b[length:]
	}
	return all
}

func TestWriter(t *testing.T) {
	var b bytes.Buffer
	w, err := NewWriter(&b, "mesh-init v1", "pid:4711")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 678901234, time.UTC)
	header := append([]byte{0x45}, make([]byte, 20)...) // of 21 bytes: it takes padding
	long := strings.Repeat("x", 70000)
	for _, p := range []Packet{
		{At: at, Data: header, Length: 60, Out: true, Comment: "redirect(15001) by O12"},
		{At: at, Data: header},
		{At: at, Comment: long},
	} {
		if err := w.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	all := parse(t, b.Bytes(), map[uint32]int{sectionHeader: 16, interfaceDescription: 8, enhancedPacket: 20})
	if len(all) != 5 || all[0].typ != sectionHeader || all[1].typ != interfaceDescription {
		t.Fatalf("%+v", all)
	}
	if binary.NativeEndian.Uint32(all[0].body) != 0x1A2B3C4D || all[0].options[shbUserAppl] != "mesh-init v1" {
		t.Errorf("section: %+v", all[0])
	}
	if binary.NativeEndian.Uint16(all[1].body) != linkRaw || all[1].options[ifTSResol] != "\x09" ||
		all[1].options[ifName] != "pid:4711" {
		t.Errorf("interface: %+v", all[1])
	}
	p := all[2]
	when := uint64(binary.NativeEndian.Uint32(p.body[4:]))<<32 | uint64(binary.NativeEndian.Uint32(p.body[8:]))
	if int64(when) != at.UnixNano() || binary.NativeEndian.Uint32(p.body[12:]) != 21 ||
		binary.NativeEndian.Uint32(p.body[16:]) != 60 || !slices.Equal(p.body[20:41], header) ||
		p.options[optComment] != "redirect(15001) by O12" {
		t.Errorf("packet: %+v", p)
	}
	direction := func(p parsed) uint32 { return binary.NativeEndian.Uint32([]byte(p.options[epbFlags])) }
	if direction(p) != 2 || direction(all[3]) != 1 || binary.NativeEndian.Uint32(all[3].body[16:]) != 21 {
		t.Errorf("directions: %+v, %+v", p, all[3])
	}
	if _, has := all[3].options[optComment]; has || len(all[4].options[optComment]) != maxComment {
		t.Errorf("comments: %d bytes", len(all[4].options[optComment]))
	}
}

type full struct{}

var errFull = errors.New("no space")

func (full) Write([]byte) (int, error) { return 0, errFull }

func TestNoSpace(t *testing.T) {
	if _, err := NewWriter(full{}, "", ""); !errors.Is(err, errFull) {
		t.Error(err)
	}
}
