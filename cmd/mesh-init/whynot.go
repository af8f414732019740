package main

import (
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/explain"
	"github.com/mesh-intercept/intercept/internal/strict"
)

// whyNotPacket is the packet that --why-not is about.
func (p packetFlags) whyNotPacket() packetFlags {
	p = maps.Clone(p)
	p[dstFlag] = p[whyNotFlag]
	return p
}

func (j job) explainWhyNot() error {
	out, err := explain.Why(j.config, j.packet.whyNotPacket().question())
	if of, is := errors.AsType[*explain.FlagError](err); is && of.Flag == dstFlag {
		err = fmt.Errorf("--%s: %w", whyNotFlag, of.Err)
	}
	if err != nil {
		return cli.UsageError{Err: err}
	}
	return j.print(out, func() string { return whyNotText(out, j.style) })
}

func whyNotText(w explain.WhyNot, style cli.Style) string {
	var b strings.Builder
	rule := w.Reason
	if w.ID != "" {
		rule = string(w.ID) + ": " + w.Reason
	}
	state, wanted := "not captured: ", "send it to the proxy"
	if w.Captured {
		state, wanted = "captured: ", "let it go"
	}
	b.WriteString(cli.Hang(style.Strong(state), len(state), w.Fate.String()+", by "+rule))
	b.WriteString("\n" + cli.Hang("packet: ", 8, strict.OneLine(w.Packet.String())))
	if len(w.Changes) == 0 {
		b.WriteString("\nNo change of a few fields would " + wanted + ".\n")
		return b.String()
	}
	if len(w.Changes) == 1 {
		b.WriteString("\nThis change would " + wanted + ".\n")
	} else {
		b.WriteString("\nEach of these changes would " + wanted + ". The first one changes least.\n")
	}
	for i, c := range w.Changes {
		what, yaml := c.How()
		b.WriteString("\n" + cli.Hang(fmt.Sprintf("%d. ", i+1), 3, what))
		for _, line := range yaml {
			b.WriteString("     " + line + "\n")
		}
		if yaml == nil {
			b.WriteString(cli.Hang("     ", 5,
				"the other items stay as they are; the whole list, as flags and as YAML, is in -o yaml"))
		}
		b.WriteString(cli.Hang("   then:    ", 12, c.Fate.String()+", by "+string(c.ID)+": "+c.Reason))
		label := "   changes: "
		for _, text := range c.Which {
			b.WriteString(cli.Hang(label, 12, text))
			label = "            "
		}
		if c.Flows+c.Others == 0 {
			b.WriteString(label + "too many classes of packets to tell them apart\n")
			continue
		}
		fmt.Fprintf(&b, "            (%s of new connections and flows, and %d of other packets)\n",
			strict.Count(c.Flows, "class"), c.Others)
	}
	return b.String()
}
