package dataplane

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"

	"github.com/mesh-intercept/intercept"
)

// sysctl is a setting of the namespace that rules do not work without.
type sysctl struct {
	name, value string // the name with slashes, since interfaces can have dots
	or          string // another that will do
	reason      string
}

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
// thread: it sets it if it may, or names it.
func requireSysctls(c intercept.Config, set bool) error {
	if len(c.VirtualInterfaces) == 0 {
		return nil
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("list the interfaces of the namespace: %w", err)
	}
	names := make([]string, len(interfaces))
	for i, each := range interfaces {
		names[i] = each.Name
	}
	var errs []error
	for _, want := range sysctls(c, names) {
		errs = append(errs, want.require(set))
	}
	return errors.Join(errs...)
}

func (s sysctl) require(set bool) error {
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
		return fmt.Errorf("%w: the sysctl %s is %s and has to be %s: %s; set it, or let apply do it with --set-sysctls",
			intercept.ErrUnsupported, s.name, strings.TrimSpace(string(have)), s.value, s.reason)
	}
	if err := os.WriteFile(file, []byte(s.value), 0); err != nil {
		return fmt.Errorf("set the sysctl %s to %s (%s): %w", s.name, s.value, s.reason, err)
	}
	return nil
}
