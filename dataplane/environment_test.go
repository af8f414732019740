//go:build linux

package dataplane

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
	"github.com/mesh-intercept/intercept/verify"
)

// TestMain lets tests start this binary again in other surroundings: under a
// filter of system calls, in another namespace.
func TestMain(m *testing.M) {
	if os.Getenv(elsewhereVariable) == "" {
		m.Run()
		return
	}
	if err := answer(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

const elsewhereVariable = "DATAPLANE_TEST_ELSEWHERE"

// request is what a test asks a process elsewhere to do.
type request struct {
	Verb   string
	Pod    Pod
	Config *intercept.Config
	Flow   *netlab.Flow
}

// reply is what came of it.
type reply struct {
	Result      Result
	Differences []intercept.Difference
	Removed     bool
	Status      Status
	Report      Report
	Verified    verify.Report
	Path        string // of the lab's pod
	Fate        string
	Error       string
	Is          []int // which of the sentinels the error is
}

// sentinels are the errors that a test can tell apart.
func sentinels() []error {
	return []error{
		intercept.ErrPermission, intercept.ErrUnsupported, intercept.ErrForeign, intercept.ErrNotIntercepted,
		intercept.ErrLocked, ErrHostNetNS, ErrNotNetNS,
	}
}

// answer does what it is asked until there are no more requests.
func answer(in io.Reader, out io.Writer) error {
	ctx := context.Background()
	requests, replies := json.NewDecoder(in), json.NewEncoder(out)
	var lab *netlab.Lab
	for {
		var r request
		if err := requests.Decode(&r); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		var a reply
		var err error
		switch r.Verb {
		case "apply":
			a.Result, err = r.Pod.Apply(ctx, *r.Config)
		case "apply anew": // as a plugin's STATUS does
			var s *Session
			if s, err = OpenNew(ctx, r.Pod); err == nil {
				a.Result, err = s.Apply(ctx, *r.Config)
				err = errors.Join(err, s.Close())
			}
		case "check":
			a.Differences, err = r.Pod.Check(ctx, *r.Config)
		case "remove":
			a.Removed, err = r.Pod.Remove(ctx)
		case "status":
			a.Status, err = r.Pod.Status(ctx)
		case "probe":
			a.Report, err = r.Pod.Probe(ctx, *r.Config)
		case "verify":
			a.Verified, err = r.Pod.Verify(ctx, *r.Config)
		case "lab":
			if lab, err = netlab.New(netlab.Options{}); err == nil {
				a.Path = lab.Pod.Path()
				_, err = lab.StartSidecar(netlab.SidecarConfig{})
			}
		case "send":
			var got netlab.Delivery
			got, err = lab.Send(*r.Flow)
			a.Fate = got.Fate.String()
		default:
			err = fmt.Errorf("there is no verb %q", r.Verb)
		}
		if err != nil {
			a.Error = err.Error()
			for i, s := range sentinels() {
				if errors.Is(err, s) {
					a.Is = append(a.Is, i)
				}
			}
		}
		if err := replies.Encode(a); err != nil {
			return err
		}
	}
}

// place is a process elsewhere. It ends with the test, however that ends, as it
// then has nothing to read any more.
type place struct {
	pid      int
	requests *json.Encoder
	replies  *json.Decoder
}

// surroundings are what a process elsewhere finds. The zero surroundings are
// those of the test.
type surroundings struct {
	attr     *syscall.SysProcAttr // namespaces of its own
	refusals []refusal            // what fails
	pod      *netlab.Namespace    // where it is
	only     []uintptr            // its capabilities, if not all
}

// start starts this binary again.
func (s surroundings) start(t *testing.T) *place {
	t.Helper()
	netlab.Require(t)
	needPrograms(t)
	// Not by its name: another user may not enter the directories on the way.
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), elsewhereVariable+"=1")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = s.attr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.run(cmd.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(stdin.Close(), cmd.Wait()); err != nil {
			t.Error(err)
		}
	})
	return &place{cmd.Process.Pid, json.NewEncoder(stdin), json.NewDecoder(stdout)}
}

// run runs f on a thread in the surroundings, which what it starts inherits.
// The thread dies with its goroutine.
func (s surroundings) run(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			done <- s.run(f) // the main thread does not die
			runtime.UnlockOSThread()
			return
		}
		err := s.enter()
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

func (s surroundings) enter() error {
	if s.pod != nil {
		err := unix.Setns(s.pod.FD(), unix.CLONE_NEWNET) // the thread never comes back
		if err != nil {
			return os.NewSyscallError("setns", err)
		}
	}
	if len(s.refusals) > 0 {
		filter := instructions(s.refusals)
		program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
		if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0,
			uintptr(unsafe.Pointer(&program))); errno != 0 {
			return os.NewSyscallError("seccomp", errno)
		}
	}
	// What is not in the bounding set root does not get when it starts a program
	// (capabilities(7)).
	for capability := range uintptr(unix.CAP_LAST_CAP + 1) {
		if s.only == nil || slices.Contains(s.only, capability) {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0); err != nil {
			return fmt.Errorf("drop capability %d: %w", capability, err)
		}
	}
	return nil
}

// ask has the process do something.
func (p *place) ask(r request) (reply, error) {
	var a reply
	if err := errors.Join(p.requests.Encode(r), p.replies.Decode(&a)); err != nil {
		return a, fmt.Errorf("ask the process elsewhere: %w", err)
	}
	if a.Error == "" {
		return a, nil
	}
	e := remoteError{text: a.Error}
	for _, i := range a.Is {
		e.is = append(e.is, sentinels()[i])
	}
	return a, e
}

// remoteError is an error of another process.
type remoteError struct {
	text string
	is   []error
}

func (e remoteError) Error() string   { return e.text }
func (e remoteError) Unwrap() []error { return e.is }

// A refusal is a system call that fails.
type refusal struct {
	call  uintptr
	when  []argument // all of them
	errno syscall.Errno
}

// argument holds if the bits of mask in the lower half of an argument are value.
type argument struct{ index, mask, value uint32 }

const all = 1<<32 - 1

// noNFTables is how a kernel without nfnetlink answers (netlink_create in
// net/netlink/af_netlink.c).
func noNFTables() refusal {
	return refusal{unix.SYS_SOCKET, []argument{{0, all, unix.AF_NETLINK}, {2, all, unix.NETLINK_NETFILTER}},
		unix.EPROTONOSUPPORT}
}

// noSockDiag is how one without sock_diag answers.
func noSockDiag() refusal {
	return refusal{unix.SYS_SOCKET, []argument{{0, all, unix.AF_NETLINK}, {2, all, unix.NETLINK_SOCK_DIAG}},
		unix.EPROTONOSUPPORT}
}

// noIPv6 is how a kernel with ipv6.disable=1 answers.
func noIPv6() refusal {
	return refusal{unix.SYS_SOCKET, []argument{{0, all, unix.AF_INET6}}, unix.EAFNOSUPPORT}
}

// noIPTables is how a kernel without ip_tables and ip6_tables answers
// (nf_sockopt_find in net/netfilter/nf_sockopt.c): IPT_SO_SET_REPLACE and its
// siblings are 64 to 67.
func noIPTables() []refusal {
	var refusals []refusal
	for _, call := range []uintptr{unix.SYS_GETSOCKOPT, unix.SYS_SETSOCKOPT} {
		for _, level := range []uint32{unix.SOL_IP, unix.SOL_IPV6} {
			refusals = append(refusals, refusal{call, []argument{{1, all, level}, {2, all &^ 3, 64}}, unix.ENOPROTOOPT})
		}
	}
	return refusals
}

// instructions returns the filter that makes system calls fail, and lets all
// others through.
func instructions(refusals []refusal) []unix.SockFilter {
	const (
		load, and = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
		jump, ret = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
		numberAt  = 0 // struct seccomp_data
		argsAt    = 16
	)
	lowerHalf := uint32(0)
	if one := uint16(1); *(*byte)(unsafe.Pointer(&one)) == 0 {
		lowerHalf = 4 // big-endian
	}
	var filter []unix.SockFilter
	for _, r := range refusals {
		one := []unix.SockFilter{{Code: load, K: numberAt}, {Code: jump, K: uint32(r.call)}}
		for _, a := range r.when {
			one = append(one, unix.SockFilter{Code: load, K: argsAt + 8*a.index + lowerHalf},
				unix.SockFilter{Code: and, K: a.mask}, unix.SockFilter{Code: jump, K: a.value})
		}
		one = append(one, unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ERRNO | uint32(r.errno)})
		for i := range one {
			if one[i].Code == jump {
				one[i].Jf = uint8(len(one) - i - 1) // to the next refusal
			}
		}
		filter = append(filter, one...)
	}
	return append(filter, unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ALLOW})
}

// app is the owner of connections that are to be captured, proxy of those that
// are not.
var (
	app   = &intercept.Owner{UID: 1000, GID: 1000}
	proxy = &intercept.Owner{UID: 1337, GID: 1337}
)

// expectation is a flow and its fate under the default configuration.
type expectation struct {
	flow netlab.Flow
	fate intercept.Fate
}

func expectations(families ...intercept.Family) []expectation {
	flow := func(from netlab.Side, dst string, owner *intercept.Owner) netlab.Flow {
		return netlab.Flow{From: from, Protocol: intercept.TCP, Dst: netip.MustParseAddrPort(dst), Owner: owner}
	}
	var list []expectation
	for _, f := range families {
		outside, pod := "203.0.113.10:80", "10.244.0.5:8080"
		if f == intercept.IPv6 {
			outside, pod = "[2001:db8::10]:80", "[fd00:244::5]:8080"
		}
		list = append(list,
			expectation{flow(netlab.FromPod, outside, app), intercept.RedirectedTo(15001)},
			expectation{flow(netlab.FromPod, outside, proxy), intercept.Fate{}},
			expectation{flow(netlab.FromPeer, pod, nil), intercept.RedirectedTo(15006)})
	}
	return list
}

// captures checks with real connections that the rules are in force.
func captures(t *testing.T, lab *netlab.Lab, families ...intercept.Family) {
	t.Helper()
	for _, e := range expectations(families...) {
		if got, err := lab.Send(e.flow); err != nil || got.Fate != e.fate {
			t.Errorf("%s: %s, %v; want %s", e.flow, got, err, e.fate)
		}
	}
}

func newLab(t *testing.T) *netlab.Lab {
	t.Helper()
	lab := netlab.NewT(t, netlab.Options{})
	if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
		t.Fatal(err)
	}
	return lab
}

func needPrograms(t *testing.T) {
	t.Helper()
	for _, name := range []string{"iptables-nft-restore", "iptables-legacy-restore", "nsenter", "nft", "ip"} {
		netlab.RequireProgram(t, name)
	}
}

// run runs a program in a network namespace and returns what it prints.
func run(t *testing.T, netns string, args ...string) string {
	t.Helper()
	out, err := exec.Command("nsenter", append([]string{"--net=" + netns}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return string(out)
}

// untouched checks that a namespace has nothing of xtables or nf_tables.
func untouched(t *testing.T, netns, after string) {
	t.Helper()
	for _, args := range [][]string{ // the files are not there before the kernel has loaded ip_tables
		{"sh", "-c", "! [ -e /proc/thread-self/net/ip_tables_names ] || cat /proc/thread-self/net/ip_tables_names"},
		{"sh", "-c", "! [ -e /proc/thread-self/net/ip6_tables_names ] || cat /proc/thread-self/net/ip6_tables_names"},
		{"nft", "list", "ruleset"},
	} {
		if got := run(t, netns, args...); got != "" {
			t.Errorf("after %s, %v: %s", after, args, got)
		}
	}
}

// says checks that an error is of the kind and has the words.
func says(t *testing.T, what string, err, kind error, words ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("%s: %v; want an error that is: %v", what, err, kind)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%s: %v\nlacks %q", what, err, w)
		}
	}
}

// TestWithoutNFTables: where the kernel has no nf_tables, auto takes
// iptables-legacy and says why, every verb agrees, and traffic is captured.
// What is asked for by name is refused.
func TestWithoutNFTables(t *testing.T) {
	p, lab := surroundings{refusals: []refusal{noNFTables()}}.start(t), newLab(t)
	netns, c := lab.Pod.Path(), intercept.Default()

	for _, b := range []Backend{BackendNFT, BackendIPTablesNFT} {
		for _, verb := range []string{"apply", "check", "status", "remove"} {
			_, err := p.ask(request{Verb: verb, Pod: Pod{NetNS: netns, Backend: b}, Config: &c})
			says(t, fmt.Sprintf("%s by %s", verb, b), err, intercept.ErrUnsupported)
		}
		untouched(t, netns, string(b))
	}
	for _, b := range []Backend{BackendAuto, BackendIPTables} {
		target := Pod{NetNS: netns, Backend: b}
		if _, err := p.ask(request{Verb: "check", Pod: target, Config: &c}); !errors.Is(err, intercept.ErrNotIntercepted) {
			t.Errorf("check by %s, where there is nothing: %v", b, err)
		}
		if r, err := p.ask(request{Verb: "remove", Pod: target}); err != nil || r.Removed {
			t.Errorf("remove by %s, where there is nothing: %v, %v", b, r.Removed, err)
		}
		if _, err := p.ask(request{Verb: "status", Pod: target}); !errors.Is(err, intercept.ErrNotIntercepted) {
			t.Errorf("counters by %s, where there is nothing: %v", b, err)
		}
		r, err := p.ask(request{Verb: "probe", Pod: target, Config: &c})
		if err != nil || r.Report.Choice.Backend != BackendIPTablesLegacy || r.Report.Error != "" {
			t.Errorf("doctor: %+v, %v", r.Report, err)
		}
		untouched(t, netns, "looking by "+string(b))

		r, err = p.ask(request{Verb: "apply", Pod: target, Config: &c})
		if err != nil {
			t.Fatalf("apply by %s: %v", b, err)
		}
		found := stateOf(r.Result.Findings)
		want := map[Backend]State{BackendIPTablesNFT: StateMissing, BackendIPTablesLegacy: StateOK}
		if b == BackendAuto {
			want[BackendNFT] = StateMissing
		}
		if r.Result.Backend != BackendIPTablesLegacy || r.Result.Outcome != intercept.Created ||
			fmt.Sprint(found) != fmt.Sprint(want) {
			t.Errorf("apply by %s: %+v; want %v", b, r.Result, want)
		}
		for _, f := range r.Result.Findings {
			cause := map[Backend]string{BackendNFT: "protocol not supported",
				BackendIPTablesNFT: "Protocol not supported"}[f.Backend]
			if f.Reason == "" || !strings.Contains(f.Reason, cause) {
				t.Errorf("%s: %s: lacks the cause %q", b, f.Reason, cause)
			}
		}
		if !strings.Contains(r.Result.Reason, "after iptables-nft was found to be unable: ") {
			t.Errorf("apply by %s: because %s", b, r.Result.Reason)
		}
		captures(t, lab, intercept.IPv4, intercept.IPv6)

		if r, err = p.ask(request{Verb: "apply", Pod: target, Config: &c}); err != nil ||
			r.Result.Outcome != intercept.Unchanged {
			t.Errorf("apply again: %+v, %v", r.Result, err)
		}
		if r, err = p.ask(request{Verb: "check", Pod: target, Config: &c}); err != nil || len(r.Differences) > 0 {
			t.Errorf("check: %v, %v", r.Differences, err)
		}
		r, err = p.ask(request{Verb: "status", Pod: target})
		redirected := uint64(0)
		for _, k := range r.Status.Counters {
			if k.Line == "O12" || k.Line == "I7" {
				redirected += k.Packets
			}
		}
		if err != nil || redirected != 4 {
			t.Errorf("%d connections counted, %v: %+v", redirected, err, r.Status.Counters)
		}
		if r, err = p.ask(request{Verb: "remove", Pod: target}); err != nil || !r.Removed {
			t.Errorf("remove: %v, %v", r.Removed, err)
		}
		if left := run(t, netns, "iptables-legacy-save") + run(t, netns, "ip6tables-legacy-save"); strings.Contains(left,
			"MESH_") {
			t.Errorf("left: %s", left)
		}
		lab = newLab(t) // whose legacy tables nobody asked for yet
		netns = lab.Pod.Path()
	}
}

func stateOf(findings []Finding) map[Backend]State {
	states := map[Backend]State{}
	for _, f := range findings {
		states[f.Backend] = f.State
	}
	return states
}

// TestDoctorWithoutNFTables: the doctor says what is missing of nf_tables, by
// which errno, and which module mends it.
func TestDoctorWithoutNFTables(t *testing.T) {
	p, lab, c := surroundings{refusals: []refusal{noNFTables()}}.start(t), netlab.NewT(t, netlab.Options{}),
		intercept.Default()
	r, err := p.ask(request{Verb: "probe", Pod: Pod{NetNS: lab.Pod.Path()}, Config: &c})
	if err != nil {
		t.Fatal(err)
	}
	found := map[Backend]Diagnosis{}
	for _, d := range r.Report.Backends {
		found[d.Backend] = d
	}
	if found[BackendNFT].State != StateMissing || found[BackendIPTablesNFT].State != StateMissing ||
		found[BackendIPTablesLegacy].State != StateOK {
		t.Errorf("%+v", r.Report)
	}
	i := slices.IndexFunc(found[BackendNFT].Capabilities, func(c Capability) bool { return c.Name == "tables" })
	if i < 0 {
		t.Fatalf("%+v", found[BackendNFT])
	}
	if c := found[BackendNFT].Capabilities[i]; c.State != StateMissing || !c.Needed || c.Errno != "EPROTONOSUPPORT" ||
		c.Cause == "" || !slices.Contains(c.Modules, "nf_tables") {
		t.Errorf("%+v", c)
	}
	if !slices.Contains(r.Report.Modules, "nf_tables") {
		t.Errorf("modules %v", r.Report.Modules)
	}
	untouched(t, lab.Pod.Path(), "doctor")
}

// TestInitContainer: an init container may not try a backend in a namespace of
// its own. It chooses as one that may, still.
func TestInitContainer(t *testing.T) {
	for name, tt := range map[string]struct {
		refusals []refusal
		want     map[Backend]Backend
	}{
		"all": {nil, map[Backend]Backend{BackendAuto: BackendNFT, BackendIPTables: BackendIPTablesNFT}},
		"no nf_tables": {[]refusal{noNFTables()}, map[Backend]Backend{BackendAuto: BackendIPTablesLegacy,
			BackendIPTables: BackendIPTablesLegacy}},
	} {
		t.Run(name, func(t *testing.T) {
			lab, c := newLab(t), intercept.Default()
			p := surroundings{refusals: tt.refusals, pod: lab.Pod,
				only: []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW}}.start(t)
			for b, want := range tt.want {
				target := Pod{Backend: b}
				if _, err := p.ask(request{Verb: "check", Pod: target, Config: &c}); !errors.Is(err, intercept.ErrNotIntercepted) {
					t.Errorf("check by %s, where there is nothing: %v", b, err)
				}
				r, err := p.ask(request{Verb: "probe", Pod: target, Config: &c})
				if err != nil || r.Report.Choice.Backend != want {
					t.Errorf("doctor by %s: %+v, %v", b, r.Report.Choice, err)
				}
				r, err = p.ask(request{Verb: "apply", Pod: target, Config: &c})
				if err != nil || r.Result.Backend != want {
					t.Fatalf("apply by %s: %+v, %v; want %s", b, r.Result, err, want)
				}
				captures(t, lab, intercept.IPv4, intercept.IPv6)
				if r, err := p.ask(request{Verb: "check", Pod: target, Config: &c}); err != nil || len(r.Differences) > 0 {
					t.Errorf("check by %s: %v, %v", b, r.Differences, err)
				}
				if r, err := p.ask(request{Verb: "remove", Pod: target}); err != nil || !r.Removed {
					t.Errorf("remove by %s: %v, %v", b, r.Removed, err)
				}
			}
		})
	}
}

// TestWithoutAny: where no backend works, the error names each and its cause,
// and nothing is written.
func TestWithoutAny(t *testing.T) {
	p, lab := surroundings{refusals: append(noIPTables(), noNFTables())}.start(t), netlab.NewT(t, netlab.Options{})
	target, c := Pod{NetNS: lab.Pod.Path()}, intercept.Default()
	words := []string{
		"no backend works here: backend nft: ", "protocol not supported", "nf_tables",
		"; backend iptables-nft: ", "Protocol not supported",
		"; backend iptables-legacy: ", "unable to initialize table 'filter'", "the kernel says protocol not available",
	}
	for _, verb := range []string{"apply", "check"} {
		_, err := p.ask(request{Verb: verb, Pod: target, Config: &c})
		says(t, verb, err, intercept.ErrUnsupported, words...)
	}
	r, err := p.ask(request{Verb: "probe", Pod: target, Config: &c})
	if err != nil || r.Report.Choice.Backend != "" {
		t.Errorf("doctor: %+v, %v", r.Report, err)
	}
	for _, w := range words {
		if !strings.Contains(r.Report.Error, w) {
			t.Errorf("doctor: %s\nlacks %q", r.Report.Error, w)
		}
	}
	for _, b := range concrete() {
		target.Backend = b
		_, err := p.ask(request{Verb: "apply", Pod: target, Config: &c})
		says(t, string(b), err, intercept.ErrUnsupported)
	}
	untouched(t, lab.Pod.Path(), "all of it")
}

// TestWithoutIPv6: where the kernel has no IPv6, families auto is IPv4 by each
// backend, and families dual is refused.
func TestWithoutIPv6(t *testing.T) {
	p := surroundings{refusals: []refusal{noIPv6()}}.start(t)
	for _, b := range concrete() {
		t.Run(string(b), func(t *testing.T) {
			lab, c := newLab(t), intercept.Default()
			target := Pod{NetNS: lab.Pod.Path(), Backend: b}

			c.Families = intercept.FamiliesDual
			_, err := p.ask(request{Verb: "apply", Pod: target, Config: &c})
			says(t, "families dual", err, intercept.ErrUnsupported, "families dual", "ipv6.disable=1", "use families auto")
			untouched(t, target.NetNS, "families dual")
			_, err = p.ask(request{Verb: "apply anew", Pod: Pod{Backend: b}, Config: &c})
			says(t, "families dual, in a namespace for it", err, intercept.ErrUnsupported, "families dual")

			c.Families = intercept.FamiliesAuto
			for _, want := range []intercept.Outcome{intercept.Created, intercept.Unchanged} {
				if r, err := p.ask(request{Verb: "apply", Pod: target, Config: &c}); err != nil || r.Result.Outcome != want {
					t.Fatalf("apply: %+v, %v; want %s", r.Result, err, want)
				}
			}
			captures(t, lab, intercept.IPv4)
			if r, err := p.ask(request{Verb: "check", Pod: target, Config: &c}); err != nil || len(r.Differences) > 0 {
				t.Errorf("check: %v, %v", r.Differences, err)
			}
			r, err := p.ask(request{Verb: "status", Pod: target})
			if err != nil || len(r.Status.Counters) == 0 {
				t.Errorf("counters: %v, %v", r.Status.Counters, err)
			}
			if got := run(t, target.NetNS, "cat", "/proc/thread-self/net/ip6_tables_names"); got != "" {
				t.Errorf("tables of IPv6: %s", got)
			}
			if r, err := p.ask(request{Verb: "remove", Pod: Pod{NetNS: target.NetNS}}); err != nil || !r.Removed {
				t.Errorf("remove: %v, %v", r.Removed, err)
			}
		})
	}
}

// TestDenied: what a security module or a seccomp profile forbids to a process that has the capabilities for it is told
// apart from missing capabilities, and nothing is written.
func TestDenied(t *testing.T) {
	socket := func(errno syscall.Errno) refusal {
		r := noNFTables()
		r.errno = errno
		return r
	}
	var options []refusal
	for _, r := range noIPTables() {
		r.errno = unix.EPERM
		options = append(options, r)
	}
	for _, tt := range []struct {
		name     string
		refusals []refusal
		backend  Backend
	}{
		{"EACCES for the socket of nf_tables", []refusal{socket(unix.EACCES)}, BackendNFT},
		{"EPERM for the socket of nf_tables", []refusal{socket(unix.EPERM)}, BackendNFT},
		{"EPERM for the socket of nf_tables, chosen", []refusal{socket(unix.EPERM)}, BackendAuto},
		{"EPERM for the options of ip_tables", options, BackendIPTablesLegacy},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p, lab, c := surroundings{refusals: tt.refusals}.start(t), netlab.NewT(t, netlab.Options{}), intercept.Default()
			target := Pod{NetNS: lab.Pod.Path(), Backend: tt.backend}
			_, err := p.ask(request{Verb: "apply", Pod: target, Config: &c})
			says(t, "apply", err, intercept.ErrPermission, "CAP_NET_ADMIN", "this process has these capabilities", "SELinux",
				"AppArmor", "seccomp")
			if err != nil && strings.Count(err.Error(), "AppArmor") != 1 {
				t.Errorf("more than once: %v", err)
			}
			untouched(t, lab.Pod.Path(), "what was refused")
		})
	}
	t.Run("no capability", func(t *testing.T) {
		t.Parallel()
		lab, c := netlab.NewT(t, netlab.Options{}), intercept.Default()
		p := surroundings{pod: lab.Pod, only: []uintptr{}}.start(t)
		_, err := p.ask(request{Verb: "apply", Config: &c})
		says(t, "apply", err, intercept.ErrPermission, "CAP_NET_ADMIN")
		if err != nil && strings.Contains(err.Error(), "AppArmor") {
			t.Error(err)
		}
	})
}

// user returns the attributes of a process that is root of a user namespace of
// its own, in which 0 is 100000 outside.
func user() *syscall.SysProcAttr {
	mapping := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 65536}}
	return &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET, UidMappings: mapping, GidMappings: mapping,
		GidMappingsEnableSetgroups: true, Credential: &syscall.Credential{},
	}
}

// podOfUser makes a lab in a user namespace, and returns the process that holds
// it and the path of its pod.
func podOfUser(t *testing.T) (*place, string) {
	t.Helper()
	p := surroundings{attr: user()}.start(t)
	r, err := p.ask(request{Verb: "lab"})
	if err != nil {
		t.Fatal(err)
	}
	return p, r.Path
}

// captures is the function of that name in a lab that another process holds.
func (p *place) captures(t *testing.T) {
	t.Helper()
	for _, e := range expectations(intercept.IPv4, intercept.IPv6) {
		if r, err := p.ask(request{Verb: "send", Flow: &e.flow}); err != nil || r.Fate != e.fate.String() {
			t.Errorf("%s: %s, %v; want %s", e.flow, r.Fate, err, e.fate)
		}
	}
}

// TestForeignUser: a pod with hostUsers: false, programmed from outside, as by
// a CNI plugin. nftables knows the pod's users there; xtables knows none, and
// iptables is refused with the reason, whoever asks.
func TestForeignUser(t *testing.T) {
	p, netns := podOfUser(t)
	c := intercept.Default()
	for _, b := range []Backend{BackendIPTablesNFT, BackendIPTablesLegacy, BackendIPTables} {
		_, err := Pod{NetNS: netns, Backend: b}.Apply(t.Context(), c)
		says(t, string(b), err, intercept.ErrUnsupported, "hostUsers: false", "owner match", "use the backend nft")
	}
	target := Pod{NetNS: netns}
	if _, err := target.Check(t.Context(), c); !errors.Is(err, intercept.ErrNotIntercepted) {
		t.Errorf("check: %v", err)
	}
	r, err := target.Probe(t.Context(), c)
	if err != nil || !r.ForeignUserNS || r.Choice.Backend != BackendNFT {
		t.Errorf("doctor: %+v, %v", r, err)
	}
	for _, d := range r.Backends {
		if d.Backend != BackendNFT && (d.State != StateMissing || !strings.Contains(d.Reason, "hostUsers: false")) {
			t.Errorf("doctor: %+v", d)
		}
	}
	untouched(t, netns, "what was refused")

	got, err := target.Apply(t.Context(), c)
	if err != nil || got.Backend != BackendNFT {
		t.Fatalf("apply: %+v, %v", got, err)
	}
	p.captures(t)
	if diffs, err := target.Check(t.Context(), c); err != nil || len(diffs) > 0 {
		t.Errorf("check: %v, %v", diffs, err)
	}
	// What one side applies, the other knows.
	if r, err := p.ask(request{Verb: "check", Pod: target, Config: &c}); err != nil || len(r.Differences) > 0 {
		t.Errorf("check from inside: %v, %v", r.Differences, err)
	}
	if removed, err := target.Remove(t.Context()); err != nil || !removed {
		t.Errorf("remove: %v, %v", removed, err)
	}
	untouched(t, netns, "remove")
}

// TestForeignUserWithoutNFTables: where nftables is missing as well, there is
// nothing left, and the error says both.
func TestForeignUserWithoutNFTables(t *testing.T) {
	_, netns := podOfUser(t)
	p, c := surroundings{refusals: []refusal{noNFTables()}}.start(t), intercept.Default()
	for _, verb := range []string{"apply", "check"} {
		_, err := p.ask(request{Verb: verb, Pod: Pod{NetNS: netns}, Config: &c})
		says(t, verb, err, intercept.ErrUnsupported, "no backend works here", "backend nft: ", "protocol not supported",
			"; backend iptables-nft: ", "; backend iptables-legacy: ", "hostUsers: false")
	}
	untouched(t, netns, "what was refused")
}

// TestOwnUser: in a pod with hostUsers: false, programmed from inside as by an
// init container, every backend works: the owner match takes the users of the
// process's own namespace.
func TestOwnUser(t *testing.T) {
	for _, b := range append([]Backend{BackendAuto}, concrete()...) {
		t.Run(string(b), func(t *testing.T) {
			t.Parallel()
			p, netns := podOfUser(t)
			target, c := Pod{NetNS: netns, Backend: b}, intercept.Default()
			r, err := p.ask(request{Verb: "apply", Pod: target, Config: &c})
			want := b
			if b == BackendAuto {
				want = BackendNFT
			}
			if err != nil || r.Result.Backend != want {
				t.Fatalf("apply: %+v, %v", r.Result, err)
			}
			p.captures(t)
			if r, err := p.ask(request{Verb: "check", Pod: target, Config: &c}); err != nil || len(r.Differences) > 0 {
				t.Errorf("check: %v, %v", r.Differences, err)
			}
			if r, err := p.ask(request{Verb: "remove", Pod: Pod{NetNS: netns}}); err != nil || !r.Removed {
				t.Errorf("remove: %v, %v", r.Removed, err)
			}
		})
	}
}

// TestUnmappedOwner: iptables is refused, with the reason, where an owner is not mapped in the pod's user namespace.
func TestUnmappedOwner(t *testing.T) {
	p, netns := podOfUser(t)
	for what, change := range map[string]func(*intercept.Config){
		"UID 4000000000":      func(c *intercept.Config) { c.Proxy.UIDs = append(c.Proxy.UIDs, intercept.ID(4000000000)) },
		"GID 5000-4000000000": func(c *intercept.Config) { c.Outbound.ExcludeGIDs = mustIDs(t, "5000-4000000000") },
	} {
		for _, b := range []Backend{BackendIPTablesNFT, BackendIPTablesLegacy} {
			c := intercept.Default()
			change(&c)
			_, err := p.ask(request{Verb: "apply", Pod: Pod{NetNS: netns, Backend: b}, Config: &c})
			says(t, string(b), err, intercept.ErrUnsupported, what+" is not mapped", "use the backend nft")
		}
	}
	untouched(t, netns, "what was refused")
}

func mustIDs(t *testing.T, s string) intercept.IDs {
	t.Helper()
	ids, err := intercept.ParseIDs(s)
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// TestProbingWritesNothing: looking and choosing leave a namespace as it was,
// another's and the process's own. Legacy xtables has an empty table from the
// moment one asks for it, which a later choice would take for rules.
func TestProbingWritesNothing(t *testing.T) {
	netlab.Require(t)
	foreign, err := netlab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	c := intercept.Default()
	for name, refusals := range map[string][]refusal{"all": nil, "no nf_tables": {noNFTables()}} {
		t.Run(name, func(t *testing.T) {
			p := surroundings{attr: &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}, refusals: refusals}.start(t)
			for where, path := range map[string]string{"another": foreign.Path(), "its own": ""} {
				netns := cmp.Or(path, fmt.Sprintf("/proc/%d/ns/net", p.pid))
				for _, b := range Backends() {
					_, err := p.ask(request{Verb: "check", Pod: Pod{NetNS: path, Backend: b}, Config: &c})
					if !errors.Is(err, intercept.ErrNotIntercepted) && !errors.Is(err, intercept.ErrUnsupported) {
						t.Errorf("%s, check by %s: %v", where, b, err)
					}
					untouched(t, netns, fmt.Sprintf("%s, check by %s", where, b))
				}
				if refusals != nil {
					continue // TestDoctorWithoutNFTables looks, too
				}
				if _, err := p.ask(request{Verb: "probe", Pod: Pod{NetNS: path}, Config: &c}); err != nil {
					t.Errorf("%s, doctor: %v", where, err)
				}
				untouched(t, netns, where+", doctor")
			}
		})
	}
}

// TestForKernel: a family that the kernel does not have is left out of families
// auto, and of no other choice.
func TestForKernel(t *testing.T) {
	c := intercept.Default()
	for hasIPv6, want := range map[bool][]intercept.Family{true: {intercept.IPv4, intercept.IPv6},
		false: {intercept.IPv4}} {
		rs, err := intercept.Compile(c)
		if err != nil {
			t.Fatal(err)
		}
		got := forKernel(rs, intercept.FamiliesAuto, hasIPv6)
		if !slices.Equal(got.Families, want) || len(rs.Families) != 2 || len(got.Chains) != len(rs.Chains) {
			t.Errorf("IPv6 %t: %v of %v", hasIPv6, got.Families, rs.Families)
		}
	}
	for _, f := range []intercept.Families{intercept.FamiliesDual, intercept.FamiliesIPv4, intercept.FamiliesIPv6} {
		c.Families = f
		rs, err := intercept.Compile(c)
		if err != nil {
			t.Fatal(err)
		}
		for _, hasIPv6 := range []bool{true, false} {
			if got := forKernel(rs, f, hasIPv6); !slices.Equal(got.Families, rs.Families) {
				t.Errorf("families %s, IPv6 %t: %v", f, hasIPv6, got.Families)
			}
		}
	}
}
