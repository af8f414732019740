package dataplane

import (
	"errors"
	"fmt"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/iptables"
)

// Backend names a way to put rules into the kernel.
type Backend string

// The backends.
const (
	BackendAuto           Backend = "auto"            // choose, and say why
	BackendNFT            Backend = "nft"             // nftables over netlink
	BackendIPTables       Backend = "iptables"        // iptables, whichever variant works
	BackendIPTablesNFT    Backend = "iptables-nft"    // iptables, the variant on nf_tables
	BackendIPTablesLegacy Backend = "iptables-legacy" // iptables, the variant on ip_tables
)

// Backends returns all that can be asked for.
func Backends() []Backend {
	return []Backend{BackendAuto, BackendNFT, BackendIPTables, BackendIPTablesNFT, BackendIPTablesLegacy}
}

// concrete are the backends that are not a choice among others.
func concrete() []Backend {
	return []Backend{BackendNFT, BackendIPTablesNFT, BackendIPTablesLegacy}
}

// candidates are the backends that a wish leaves, the best first.
func candidates(want Backend) ([]Backend, error) {
	switch want {
	case "", BackendAuto:
		return concrete(), nil
	case BackendIPTables:
		return []Backend{BackendIPTablesNFT, BackendIPTablesLegacy}, nil
	case BackendNFT, BackendIPTablesNFT, BackendIPTablesLegacy:
		return []Backend{want}, nil
	}
	names := make([]string, len(Backends()))
	for i, b := range Backends() {
		names[i] = string(b)
	}
	return nil, fmt.Errorf("backend %q is not one of %s", string(want), strings.Join(names, ", "))
}

// variant is the iptables of a backend, or "".
func (b Backend) variant() iptables.Variant {
	switch b {
	case BackendIPTablesNFT:
		return iptables.NFT
	case BackendIPTablesLegacy:
		return iptables.Legacy
	case BackendAuto, BackendNFT, BackendIPTables:
	}
	return ""
}

// State says whether a backend can do what is asked of it.
type State string

// The states. Only what is proven missing makes auto turn to another backend.
const (
	StateOK      State = "ok"      // tried, and it works
	StateMissing State = "missing" // tried, and it does not; or its program is not there
	StateUnknown State = "unknown" // could not be tried, or was not
)

// Finding is what is known of a backend, and how.
type Finding struct {
	Backend Backend `json:"backend"`
	State   State   `json:"state"`
	Reason  string  `json:"reason"`
	err     error   // of StateMissing
}

// Choice is the backend chosen, the reason for it, and what was found of it
// and of those that were preferred to it.
type Choice struct {
	Backend  Backend   `json:"backend"`
	Reason   string    `json:"reason"`
	Findings []Finding `json:"findings,omitempty"`
}

// choose picks the first backend that is not proven to be unable. It asks the
// probe about no more of them than it has to. What was asked for by name is
// taken or refused: nothing else is put in its place.
func choose(want Backend, probe func(Backend) Finding) (Choice, error) {
	all, err := candidates(want)
	if err != nil {
		return Choice{}, err
	}
	var choice Choice
	var errs []error
	for _, b := range all {
		f := probe(b)
		choice.Findings = append(choice.Findings, f)
		if f.State == StateMissing {
			errs = append(errs, fmt.Errorf("backend %s: %w", b, f.err))
			continue
		}
		choice.Backend = b
		switch {
		case len(all) == 1:
			choice.Reason = "asked for"
		case len(errs) > 0:
			choice.Reason = fmt.Sprintf("%s, after %s was found to be unable: %s", f.Reason, choice.Findings[len(errs)-1].Backend, choice.Findings[len(errs)-1].Reason)
		default:
			choice.Reason = f.Reason
		}
		return choice, nil
	}
	if len(all) == 1 {
		return choice, errors.Join(errs...)
	}
	return choice, fmt.Errorf("no backend works here: %w", joinLine(errs))
}

// joinLine joins errors in one sentence.
func joinLine(errs []error) error {
	var joined error
	for _, e := range errs {
		if joined == nil {
			joined = e
		} else {
			joined = fmt.Errorf("%w; %w", joined, e)
		}
	}
	return joined
}

// praise says of a backend how good it is if nothing speaks against it.
func (b Backend) praise() string {
	switch b {
	case BackendNFT:
		return "nftables over netlink needs no program and writes both families in one transaction"
	case BackendIPTablesNFT:
		return "iptables-nft works here"
	case BackendIPTablesLegacy:
		return "iptables-legacy works here"
	case BackendAuto, BackendIPTables:
	}
	return ""
}

// missing is the finding that a backend is unable.
func missing(b Backend, err error) Finding {
	return Finding{Backend: b, State: StateMissing, Reason: err.Error(), err: err}
}

// errForeignUser explains why iptables cannot know owners in a namespace of
// another user namespace.
func errForeignUser() error {
	return fmt.Errorf("%w: the network namespace belongs to another user namespace than this process (hostUsers: false), and the kernel takes the owner match of iptables from processes of its own user namespace alone (xt_owner, EINVAL); use the backend nft, which has no such limit", intercept.ErrUnsupported)
}
