package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/explain"
	"github.com/mesh-intercept/intercept/internal/permalink"
	"github.com/mesh-intercept/intercept/internal/strict"
)

func explainVerb() verb {
	return verb{cli.Verb{
		Name: "explain", Does: "say what happens to a packet and why; no privilege needed",
		Also: []string{"why", "what", "describe"},
		More: "It follows the rules that this configuration makes, not those in a kernel. With --live it\n" +
			"takes the configuration that is in force in a network namespace, and its first line says\n" +
			"whether the rules are as they were written, and in force.",
		Files: "OLD NEW",
		Needs: "[--live] {[--link] --dst ADDRESS:PORT [--from app|proxy|outside] | --link |\n" +
			"         --matrix | --why-not ADDRESS:PORT | --flows FILE} | --diff {OLD | --live} NEW",
		Flags: explainFlags,
		Examples: `
  Why does this call of the app (not) go to the proxy?
    mesh-init explain --dst 10.1.2.3:443 --uid 1000 --config mesh.yaml
  The proxy calls its own pod by the pod's address; a client calls port 8080:
    mesh-init explain --from proxy --to-self --dst 10.244.1.7:8080
    mesh-init explain --from outside --src 10.244.2.9 --dst 10.244.1.7:8080
  What becomes of each kind of traffic?
    mesh-init explain --matrix --config mesh.yaml
  Which change would send this call to the proxy, or let it go?
    mesh-init explain --why-not 10.1.2.3:443 --config mesh.yaml
  Which address shows somebody else this very case?
    mesh-init explain --link --dst 10.1.2.3:443 --uid 1000 --config mesh.yaml
  What becomes of the flows that tcpdump shows?
    tcpdump -nr pod.pcap | mesh-init explain --flows - --config mesh.yaml
  Which packets have another fate with a new configuration?
    mesh-init explain --diff mesh.yaml new.yaml
  Why does this pod's call (not) go to the proxy? What would a new configuration change in it?
    mesh-init explain --live -n /run/netns/pod --dst 10.1.2.3:443
    mesh-init explain --diff --live -n /run/netns/pod new.yaml
`}, job.explain}
}

func explainFlags() []cli.Flag {
	from := append(configFlags(), once(liveRow())...)
	return append(append(append(from, netnsFlags()...), packetRows()...), once(
		cli.Flag{Field: explain.State()},
		row(matrixFlag, "", groupPacket, "false",
			"what becomes of all traffic, kind by kind: proven, not\nsampled"),
		row(flowsFlag, "FILE", groupPacket, "",
			"what becomes of many flows, one a line: tcp ADDRESS:PORT\n-> ADDRESS:PORT, or lines of tcpdump -n, conntrack -L,\n"+
				"hubble observe, pwru; - for standard input"),
		row(whyNotFlag, "ADDRESS:PORT", groupPacket, "",
			"the smallest changes of the configuration that would\nsend this packet to the proxy, or let it go"),
		row(linkFlag, "", groupPacket, "false",
			"print the address of a page that shows the same: this\nconfiguration and packet; nothing is sent to anybody"),
		diffRow(),
	)...)
}

// packetRows are the flags that describe a packet, to explain or to trace. The defaults are those of a packet to explain.
func packetRows() []cli.Flag {
	var all []cli.Flag
	for _, f := range explain.Fields() {
		all = append(all, cli.Flag{Field: f})
	}
	return once(all...)
}

// A question is a flag of explain that asks for something else than what becomes of one packet.
type question struct {
	flag, about string
	// with are the flags of a packet that it goes with.
	with []string
}

// packetNames are the flags that describe a packet which begins a flow, without where it goes.
func packetNames() []string {
	return []string{"from", "src", "proto", "uid", "gid", "mark", "interface", "to-self"}
}

func questions() []question {
	return []question{
		{matrixFlag, "is of all", nil},
		{diffFlag, "is of all", nil},
		{flowsFlag, "has its own", flowFlags()},
		{whyNotFlag, "names where it goes", packetNames()},
		{linkFlag, "", append(packetNames(), dstFlag, "state")},
	}
}

// explained says what is wrong with the packet to explain, or with what is asked in its place.
func (in inputs) explained(s settings) (errs []error) {
	errs = in.besideLive(s)
	diff, live := s.packet[diffFlag].text == "true", s.packet[liveFlag].text == "true"
	switch {
	case diff && live && len(in.args) != 1:
		errs = append(errs, fmt.Errorf("--%[1]s: with --%[2]s it compares what is in force with one file; write --%[1]s --%[2]s NEW",
			diffFlag, liveFlag))
	case diff && !live && len(in.args) != 2:
		errs = append(errs, fmt.Errorf("--%s: it compares two files; write --%s OLD NEW", diffFlag, diffFlag))
	case !diff && len(in.args) > 0:
		errs = append(errs, fmt.Errorf("%q is left over: a destination is given with --%s, and files with --%s OLD NEW", in.args[0],
			dstFlag, diffFlag))
	}
	asked := question{}
	for _, q := range questions() {
		if set := s.packet[q.flag]; !set.given || set.IsSwitch() && set.text != "true" {
			continue
		}
		if asked.flag != "" {
			errs = append(errs, fmt.Errorf("--%s: --%s asks something else; leave one of them out", q.flag, asked.flag))
			continue
		}
		asked = q
	}
	mistaken := slices.ContainsFunc(in.errs, func(err error) bool {
		return err != nil && slices.ContainsFunc(questions(), func(q question) bool {
			return strings.HasPrefix(err.Error(), "--"+q.flag+": ")
		})
	})
	switch {
	case asked.flag == "" && mistaken:
		return errs
	case asked.flag == whyNotFlag:
		if _, err := s.packet.whyNotPacket().question().Packet(s.config); err != nil {
			errs = append(errs, strict.Reworded(err, "--"+dstFlag, "--"+whyNotFlag))
		}
	case asked.flag == linkFlag && !s.packet.describes():
	case asked.flag == linkFlag, asked.flag == "":
		if _, err := s.packet.question().Packet(s.config); err != nil {
			errs = append(errs, err)
		}
		if asked.flag == "" {
			return errs
		}
	}
	for _, g := range in.given {
		isQuestion := slices.ContainsFunc(questions(), func(q question) bool { return q.flag == g.Name })
		if g.Group == groupPacket && !isQuestion && !slices.Contains(asked.with, g.Name) {
			errs = append(errs, fmt.Errorf("%s: it describes one packet, and --%s %s; leave one of them out", g.source,
				asked.flag, asked.about))
		}
	}
	return errs
}

// packetFlags are the settings, by flag, that describe a packet.
type packetFlags map[string]setting

func (p packetFlags) given(name string) bool { return p[name].given }

// question is what the flags ask about.
func (p packetFlags) question() explain.Question {
	text := func(name string) string {
		if !p.given(name) {
			return ""
		}
		return p[name].text
	}
	return explain.Question{
		From: text("from"), Dst: text(dstFlag), Src: text("src"), Proto: text("proto"), UID: text("uid"),
		GID: text("gid"), Mark: text("mark"), Interface: text("interface"), ToSelf: p["to-self"].text == "true",
		State: text("state"),
	}
}

// describes reports whether any flag describes a packet.
func (p packetFlags) describes() bool {
	return slices.ContainsFunc(append(packetNames(), dstFlag, "state"), p.given)
}

func (j job) explain() error {
	if j.packet[liveFlag].text == "true" {
		if err := j.takeLive(); err != nil {
			return err
		}
	}
	switch {
	case j.packet[matrixFlag].text == "true":
		return j.explainMatrix()
	case j.packet[diffFlag].text == "true":
		return j.explainDiff()
	case j.packet.given(flowsFlag):
		return j.explainFlows()
	case j.packet.given(whyNotFlag):
		return j.explainWhyNot()
	case j.packet[linkFlag].text == "true":
		return j.explainLink()
	}
	question := j.packet.question()
	answer, err := explain.Ask(j.config, question)
	if err != nil {
		return cli.UsageError{Err: err}
	}
	e := answer.Explain(j.config, question)
	e.Sources = j.sources
	return j.print(e, func() string { return explanationText(e, j.style, j.configText()) })
}

// linkJSON is what explain --link says.
type linkJSON struct {
	Link string `json:"link"`
}

func (j job) explainLink() error {
	state := permalink.State{Config: permalink.Fields(j.config)}
	if j.packet.describes() {
		q := j.packet.question()
		state.Packet = &q
	}
	url, err := state.URL()
	if err != nil {
		return cli.UsageError{Err: fmt.Errorf("--%s: %w", linkFlag, err)}
	}
	return j.print(linkJSON{url}, func() string { return url + "\n" })
}

func explanationText(e explain.Explanation, style cli.Style, config string) string {
	decided := e.Reason
	if e.ID != "" {
		decided = string(e.ID) + ": " + e.Reason
	}
	fate := e.Fate.String() + ": "
	text := cli.Hang(style.Strong(fate), len(fate), e.Words) + "\n" +
		cli.Hang("packet:  ", 9, strict.OneLine(e.Packet.String())) +
		cli.Hang("config:  ", 9, strict.OneLine(config)) +
		cli.Hang("decided: ", 9, decided)
	if len(e.Steps) == 0 {
		return text
	}
	rows := []cli.Row{{"RULE", "REASON", "MATCH"}}
	for i, s := range e.Steps {
		if i == 0 || e.Steps[i-1].Chain != s.Chain {
			rows = append(rows, cli.Row{s.Chain + ":"})
		}
		match := "no: " + s.Because
		if s.Matched {
			match = "yes: " + s.Target
		}
		rows = append(rows, cli.Row{string(s.ID), s.Reason, explain.Shorten(match)})
	}
	return text + "\n" + cli.Table(rows)
}
