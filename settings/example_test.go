package settings_test

import (
	"errors"
	"fmt"

	"github.com/spf13/pflag"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/settings"
)

// A configuration comes from YAML or JSON.
func ExampleLoad() {
	c, err := settings.Load([]byte(`
outbound:
  excludePorts: [5432]
  exclude:
    - udp 10.0.0.0/8:5000-6000
dns:
  mode: all
`))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(c.Outbound.ExcludePorts, c.Outbound.Exclude[0], c.DNS.Mode, c.TunnelPort)
	// Output: 5432 udp 10.0.0.0/8:5000-6000 all 15008
}

// Every mistake is reported at once, with the field and the line.
func ExampleLoad_errors() {
	_, err := settings.Load([]byte(`
outbound:
  excludePort: [5432]
dns:
  mode: on
`))
	fmt.Println(err)
	if field, ok := errors.AsType[*intercept.FieldError](err); ok {
		fmt.Printf("field %s, line %d\n", field.Field, field.Line)
	}
	// Output:
	// data: outbound.excludePort: unknown field; did you mean excludePorts? (line 3)
	// dns.mode: "on" is not one of off, resolvconf, all (from data, line 5)
	// field outbound.excludePort, line 3
}

// A program takes its configuration as mesh-init does: flags go before the
// environment, and that before a file. Each value says where it came from.
func ExampleRead() {
	flags := pflag.NewFlagSet("gateway", pflag.ContinueOnError)
	config := flags.String("config", "", "configuration file")
	mesh := settings.RegisterFlags(flags)
	if err := flags.Parse([]string{"--dns=all", "--outbound-exclude-ports", "5432"}); err != nil {
		fmt.Println(err)
		return
	}
	r, err := settings.Read(settings.Sources{
		File:    *config,
		Environ: []string{"MESH_DNS_PORT=5353"}, // os.Environ()
		Flags:   mesh,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, field := range []string{"dns.mode", "dns.port", "tunnelPort"} {
		fmt.Printf("%s from %q\n", field, r.Origin(field).Source)
	}
	// Output:
	// dns.mode from "--dns"
	// dns.port from "MESH_DNS_PORT"
	// tunnelPort from ""
}

// A configuration is written for mesh-init: what is as in the defaults is left
// out.
func ExampleArgs() {
	c := intercept.Default()
	c.DNS.Mode = intercept.DNSResolvConf
	c.Outbound.ExcludePorts = intercept.Ports{intercept.Port(5432)}
	fmt.Println(settings.Args(c))
	fmt.Println(settings.Environ(c))
	fmt.Println(settings.Annotations(c, "intercept.mesh"))
	fmt.Printf("%s", settings.YAML(c))
	// Output:
	// [--outbound-exclude-ports=5432 --dns=resolvconf]
	// [MESH_OUTBOUND_EXCLUDE_PORTS=5432 MESH_DNS=resolvconf]
	// map[intercept.mesh/dns:resolvconf intercept.mesh/enabled:true intercept.mesh/outbound-exclude-ports:5432]
	// outbound:
	//   excludePorts:
	//     - 5432
	// dns:
	//   mode: resolvconf
}
