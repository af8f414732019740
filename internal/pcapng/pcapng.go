// Package pcapng writes captures that Wireshark and tcpdump read, with a comment for each packet
// (draft-ietf-opsawg-pcapng). It writes IP packets without a link layer.
package pcapng

import (
	"encoding/binary"
	"io"
	"time"
)

// Packet is one that was seen.
type Packet struct {
	At time.Time
	// Data is the beginning of the packet, from its IP header, and Length how long the whole is, in bytes.
	Data   []byte
	Length int
	// Out is whether it was sent; else it has arrived.
	Out bool
	// Comment says something of it. Empty: nothing.
	Comment string
}

// Block types, options and numbers of the format.
const (
	sectionHeader, interfaceDescription, enhancedPacket = 0x0A0D0D0A, 1, 6

	optComment, shbUserAppl, ifName, ifTSResol, epbFlags = 1, 4, 2, 9, 2

	linkRaw    = 101 // LINKTYPE_RAW: IPv4 or IPv6, as the first four bits say
	maxComment = 1<<16 - 4
)

// Writer writes packets, each in one call of the writer below.
type Writer struct{ w io.Writer }

// NewWriter begins a capture: it names the program that makes it, and where packets are seen.
func NewWriter(w io.Writer, program, where string) (*Writer, error) {
	head := binary.NativeEndian.AppendUint32(nil, 0x1A2B3C4D)
	head = binary.NativeEndian.AppendUint16(head, 1) // version 1.0
	head = binary.NativeEndian.AppendUint16(head, 0)
	head = binary.NativeEndian.AppendUint64(head, 1<<64-1) // of unknown length
	head = end(option(head, shbUserAppl, []byte(program)))

	link := binary.NativeEndian.AppendUint16(nil, linkRaw)
	link = append(link, 0, 0)
	link = binary.NativeEndian.AppendUint32(link, 0) // no limit on lengths
	const nanoseconds = 9
	link = end(option(option(link, ifName, []byte(where)), ifTSResol, []byte{nanoseconds}))
	_, err := w.Write(append(block(sectionHeader, head), block(interfaceDescription, link)...))
	return &Writer{w}, err
}

// Write writes a packet.
func (w *Writer) Write(p Packet) error {
	at := uint64(p.At.UnixNano())
	b := binary.NativeEndian.AppendUint32(nil, 0) // the one interface
	for _, n := range []uint32{uint32(at >> 32), uint32(at), uint32(len(p.Data)), uint32(max(p.Length, len(p.Data)))} {
		b = binary.NativeEndian.AppendUint32(b, n)
	}
	b = pad(append(b, p.Data...))
	if p.Comment != "" {
		b = option(b, optComment, []byte(p.Comment[:min(len(p.Comment), maxComment)]))
	}
	direction := uint32(1) // inbound
	if p.Out {
		direction = 2
	}
	b = end(option(b, epbFlags, binary.NativeEndian.AppendUint32(nil, direction)))
	_, err := w.w.Write(block(enhancedPacket, b))
	return err
}

func option(b []byte, code uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, code)
	b = binary.NativeEndian.AppendUint16(b, uint16(len(value)))
	return pad(append(b, value...))
}

// end ends a list of options.
func end(b []byte) []byte { return append(b, 0, 0, 0, 0) }

func pad(b []byte) []byte { return append(b, make([]byte, (4-len(b)%4)%4)...) }

func block(typ uint32, body []byte) []byte {
	length := uint32(len(body) + 12)
	b := binary.NativeEndian.AppendUint32(nil, typ)
	b = binary.NativeEndian.AppendUint32(b, length)
	return binary.NativeEndian.AppendUint32(append(b, body...), length)
}
