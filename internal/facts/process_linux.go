package facts

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/internal/conntrack"
	"github.com/mesh-intercept/intercept/ruleset"
)

// readFile reads the beginning of a file of /proc, without spaces around it.
func readFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 64<<10))
	return strings.TrimSpace(string(text)), err
}

func readLines(path string) []string {
	text, err := readFile(path)
	if err != nil {
		return []string{err.Error()}
	}
	lines := []string{}
	for line := range strings.Lines(text) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return lines
}

// Self says who looks.
func Self() (Process, error) {
	p := Process{Status: map[string]string{}, Namespaces: map[string]string{}, Architecture: runtime.GOARCH}
	status, err := readFile("/proc/thread-self/status")
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(line, ":")
		switch name {
		case "Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp":
			p.Status[name] = strings.Join(strings.Fields(value), " ")
		}
	}
	p.Cgroup = readLines("/proc/self/cgroup")
	p.UIDMap, p.GIDMap = readLines("/proc/self/uid_map"), readLines("/proc/self/gid_map")
	if label, err := readFile("/proc/self/attr/current"); err == nil {
		p.Label = strings.TrimRight(label, "\x00\n")
	}
	for _, name := range []string{"net", "user", "pid", "mnt"} {
		if link, err := os.Readlink("/proc/thread-self/ns/" + name); err == nil {
			p.Namespaces[name] = link
		}
	}
	return p, wrap("read the process's status", err)
}

// Tracked says how many connections are tracked, and how many were lost.
func Tracked() (c Conntrack, err error) {
	for name, to := range map[string]*uint64{"count": &c.Count, "max": &c.Max} {
		text, err := readFile("/proc/sys/net/netfilter/nf_conntrack_" + name)
		if err == nil {
			*to, err = strconv.ParseUint(text, 10, 64)
		}
		if err != nil {
			return c, wrap("read what connection tracking holds (module nf_conntrack)", err)
		}
	}
	c.readLosses()
	c.States = map[string]int{}
	err = conntrack.Each(func(e conntrack.Entry) {
		name := "protocol " + strconv.Itoa(int(e.Original.Protocol))
		if p := e.Original.Protocol; p == ruleset.TCP {
			name = strings.TrimSpace("TCP " + e.TCPState)
		} else if p == ruleset.UDP {
			name = "UDP"
		}
		c.States[name]++
	})
	if err != nil {
		c.StatesError = err.Error()
	}
	return c, nil
}

// readLosses adds up what each processor has counted. The file has a line of names, and a line of hexadecimal numbers
// for each processor (ct_cpu_seq_show in net/netfilter/nf_conntrack_standalone.c).
func (c *Conntrack) readLosses() {
	lines := readLines("/proc/thread-self/net/stat/nf_conntrack")
	names := strings.Fields(lines[0])
	for _, line := range lines[1:] {
		for i, field := range strings.Fields(line) {
			n, err := strconv.ParseUint(field, 16, 64)
			if err != nil || i >= len(names) {
				continue
			}
			switch names[i] {
			case "drop":
				c.Drop += n
			case "early_drop":
				c.EarlyDrop += n
			case "insert_failed":
				c.InsertFailed += n
			}
		}
	}
}

// Key returns random numbers. It asks the kernel itself, since package crypto/rand is a hundred kilobytes.
func Key() (key [2]uint64, err error) {
	var random [16]byte
	n, err := unix.Getrandom(random[:], 0)
	if err == nil && n < len(random) {
		err = errors.New("too few of them")
	}
	return [2]uint64{binary.NativeEndian.Uint64(random[:]), binary.NativeEndian.Uint64(random[8:])},
		wrap("ask for random bytes", err)
}
