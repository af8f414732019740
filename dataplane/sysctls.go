package dataplane

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/links"
	"github.com/mesh-intercept/intercept/ruleset"
)

// sysctl is a setting of the namespace that rules do not work without.
type sysctl struct {
	name, value string // the name with slashes, since interfaces can have dots
	or          string // another that will do
	reason      string
}

// SysctlError reports a sysctl that is not as the configuration needs it, where Apply was not permitted to set it
// (Pod.SetSysctls). It is [ruleset.ErrUnsupported].
type SysctlError struct {
	// Name has slashes between its parts, since the names of interfaces can have dots.
	Name, Have, Want string
	// Reason says what needs it.
	Reason string
}

func (e *SysctlError) Error() string {
	return fmt.Sprintf("the sysctl %s is %s and has to be %s: %s", e.Name, e.Have, e.Want, e.Reason)
}

func (e *SysctlError) Unwrap() error { return ruleset.ErrUnsupported }

// sysctls returns what c needs of the namespace, given the names of its
// interfaces.
func sysctls(c intercept.Config, interfaces []string) []sysctl {
	loopback := false
	for _, t := range append(c.Outbound.Target, c.DNS.Target...) {
		loopback = loopback || t.Addr().Is4() && t.Addr().IsLoopback()
	}
	if !loopback {
		return nil
	}
	var all []sysctl
	for _, pattern := range c.VirtualInterfaces {
		for _, name := range interfaces {
			stem, glob := strings.CutSuffix(pattern, "*")
			if name == pattern || glob && strings.HasPrefix(name, stem) {
				all = append(all, sysctl{"net/ipv4/conf/" + name + "/route_localnet", "1", "net/ipv4/conf/all/route_localnet",
					"what arrives by " + name + " goes to a target in 127.0.0.0/8, which Linux takes from lo alone"})
			}
		}
	}
	return all
}

// requireSysctls makes sure of what c needs in the namespace of the calling
// thread: it sets it if it may, and says in done how it was, or names it.
func requireSysctls(c intercept.Config, set bool, done *effects) error {
	if len(c.VirtualInterfaces) == 0 {
		return nil
	}
	interfaces, err := links.List()
	if err != nil {
		return err
	}
	names := make([]string, len(interfaces))
	for i, each := range interfaces {
		names[i] = each.Name
	}
	var errs []error
	for _, want := range sysctls(c, names) {
		errs = append(errs, want.require(set, done))
	}
	return errors.Join(errs...)
}

// closeWait is the sysctl of Pod.CloseWait.
const closeWait = "net/netfilter/nf_conntrack_tcp_timeout_close_wait"

// setCloseWait sets it in the namespace of the calling thread. Zero: it does nothing.
func setCloseWait(d time.Duration, done *effects) error {
	if d == 0 {
		return nil
	}
	if d < time.Second || d%time.Second != 0 {
		return fmt.Errorf("%s is not a number of seconds (Pod.CloseWait)", d)
	}
	s := sysctl{name: closeWait, value: strconv.Itoa(int(d / time.Second)), reason: "asked for"}
	if _, err := os.Stat("/proc/sys/" + s.name); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: there is no sysctl %s: the kernel has no conntrack (module nf_conntrack)",
			ruleset.ErrUnsupported, s.name)
	}
	return s.require(true, done)
}

func (s sysctl) require(set bool, done *effects) error {
	if have, err := os.ReadFile("/proc/sys/" + s.or); err == nil && strings.TrimSpace(string(have)) == s.value {
		return nil
	}
	file := "/proc/sys/" + s.name
	have, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // the interface has gone
	case err != nil:
		return fmt.Errorf("read the sysctl %s: %w", s.name, err)
	case strings.TrimSpace(string(have)) == s.value:
		return nil
	case !set:
		return &SysctlError{Name: s.name, Have: strings.TrimSpace(string(have)), Want: s.value, Reason: s.reason}
	}
	if err := os.WriteFile(file, []byte(s.value), 0); err != nil {
		return fmt.Errorf("set the sysctl %s to %s (%s): %w", s.name, s.value, s.reason, err)
	}
	*done = append(*done,
		effect{"the sysctl " + s.name, func(context.Context) error { return os.WriteFile(file, have, 0) }})
	return nil
}
