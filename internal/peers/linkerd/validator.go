package linkerd

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/mesh-intercept/intercept/internal/peers"
)

// validation are the validator's flags, as they were given.
type validation struct {
	logLevel, logFormat, timeout, listen, connect string
	help                                          bool
}

func (v *validation) flags(env map[string]string) *pflag.FlagSet {
	or := func(name, otherwise string) string {
		if value, ok := env[name]; ok {
			return value
		}
		return otherwise
	}
	set := pflag.NewFlagSet("linkerd-validator", pflag.ContinueOnError)
	set.SortFlags = false
	set.StringVar(&v.logLevel, "log-level", or("LINKERD_VALIDATOR_LOG_LEVEL", "info"), "error, warn, info, debug or trace")
	set.StringVar(&v.logFormat, "log-format", or("LINKERD_VALIDATOR_LOG_FORMAT", "plain"), "plain or json")
	set.StringVar(&v.timeout, "timeout", "10s", "how long it may take, in ms, s, m, h or d")
	set.StringVar(&v.listen, "listen-addr", "0.0.0.0:4140", "where connections have to come: the proxy's outbound port")
	set.StringVar(&v.connect, "connect-addr", "192.0.2.2:1404", "where one is opened to")
	set.BoolVarP(&v.help, "help", "h", false, "this help")
	return set
}

// ParseValidator says what a command line of linkerd2-network-validator asks for.
func ParseValidator(args []string, w peers.World) (peers.Request, error) {
	env := map[string]string{}
	for _, pair := range w.Environ {
		if name, value, ok := strings.Cut(pair, "="); ok {
			env[name] = value
		}
	}
	v := &validation{}
	set := v.flags(env)
	if err := set.Parse(args); err != nil {
		return peers.Request{}, err
	}
	if v.help {
		text := "Usage: mesh-init linkerd-validator [flags]\n\n" + set.FlagUsages()
		return peers.Request{Action: peers.Help, Text: text}, nil
	}
	r := peers.Request{Action: peers.Nothing, Arrival: &peers.Arrival{}}
	var errs []error
	fail := func(flag, value string, err error) {
		errs = append(errs, &peers.FlagError{Flag: flag, Value: value, Err: err})
	}
	if set.NArg() > 0 {
		fail(set.Arg(0), "", errors.New("there are no arguments but flags"))
	}
	read := func(flag, value string) netip.AddrPort {
		a, err := netip.ParseAddrPort(value)
		if err != nil || a.Port() == 0 {
			fail(flag, value, errors.New("it is no address with a port, as 192.0.2.2:1404 or [2001:db8::2]:1404"))
		}
		return a
	}
	r.Arrival.Listen = read("--listen-addr", v.listen)
	r.Arrival.To = read("--connect-addr", v.connect)
	if l, to := r.Arrival.Listen.Addr(), r.Arrival.To.Addr(); len(errs) == 0 && l.Is4() != to.Is4() {
		fail("--connect-addr", v.connect, fmt.Errorf("it is not of the family of --listen-addr %s", v.listen))
	}
	var err error
	if r.Arrival.Timeout, err = duration(v.timeout); err != nil {
		fail("--timeout", v.timeout, err)
	}
	r.LogLevel, r.LogFormat = "info", "text"
	switch level := strings.ToLower(v.logLevel); level {
	case "error", "warn", "info", "debug":
		r.LogLevel = level
	case "trace":
		r.LogLevel = "debug"
	default:
		r.Warn("--log-level %q is none of error, warn, info, debug, trace; it is info", v.logLevel)
	}
	switch v.logFormat {
	case "json":
		r.LogFormat = "json"
	case "plain":
	default:
		fail("--log-format", v.logFormat, errors.New("it is neither plain nor json"))
	}
	return r, errors.Join(errs...)
}

// duration reads a whole number with a unit.
func duration(s string) (time.Duration, error) {
	s = strings.TrimSpace(s)
	i := strings.LastIndexAny(s, "0123456789") + 1
	n, err := strconv.ParseUint(s[:i], 10, 63)
	unit, known := map[string]time.Duration{
		"ms": time.Millisecond, "s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour,
	}[s[i:]]
	switch {
	case err == nil && n == 0 && s[i:] == "":
		return 0, nil
	case err != nil || !known || n > uint64(math.MaxInt64/unit):
		return 0, errors.New("it is no whole number with a unit of ms, s, m, h or d, as 10s")
	}
	return time.Duration(n) * unit, nil
}
