package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/internal/infile"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/yamldoc"
	"github.com/mesh-intercept/intercept/internal/yamledit"
	"github.com/mesh-intercept/intercept/podspec/inject"
)

// maxManifests is how many bytes of manifests are read at a time: 7,000 pods with their sidecars.
const maxManifests = 32 << 20

const groupInject decode.Group = "What to inject"

func injectVerb() verb {
	return verb{cli.Verb{
		Name: "inject", Does: "add the sidecar, and what sends traffic to it, to the pods in manifests",
		Also: []string{"uninject", "kube-inject", "mutate", "sidecar"},
		More: "It reads Pods and all that makes them (Deployments, StatefulSets, DaemonSets, ReplicaSets,\n" +
			"ReplicationControllers, Jobs, CronJobs, Lists), and writes them with a sidecar. All else in the text stays as it is, and nothing\n" +
			"is asked of a cluster. A second time changes nothing; another profile takes the place of the old one.\n" +
			"The text stays YAML or JSON as it is; -o yaml and -o json make one of the\n" +
			"other, and -o patch writes a JSON patch of each object.",
		Flags: injectFlags, Outputs: patchOutput,
		Examples: `
  Give the app a sidecar, and run it:
    mesh-init inject --profile haproxy -f app.yaml | kubectl apply -f -

  What would that change?
    mesh-init inject --profile haproxy -f app.yaml --diff
`}, job.inject}
}

func injectFlags() []cli.Flag {
	return append(manifestFlags(), once(
		row(profileFlag, "NAME", groupInject, "haproxy",
			"what to inject: "+strings.Join(inject.Shipped(), ", ")+", or a file"),
		row(printProfileFlag, "", groupInject, "false", "print the profile, as a start for one of your own"),
		row(uninjectFlag, "", groupInject, "false", "take out what was injected"),
		row(modeFlag, "auto|init|cni", groupInject, string(inject.ModeAuto),
			"who writes a pod's rules: an init container, or mesh-cni\non the node; auto: as the profile says"),
		row(kubernetesFlag, "VERSION", groupInject, "",
			"the cluster's version, as in 1.28: before 1.29 there are\nno sidecars that start first and end last"),
		diffRow(),
	)...)
}

// manifestFlags are the flags of verbs that read manifests.
func manifestFlags() []cli.Flag {
	flags := once(row(filenameFlag, "FILE", groupInject, "", "manifests, YAML or JSON; - for standard input"))
	flags[0].Short, flags[0].Again = "f", "; give it again\nfor more"
	return flags
}

// injection is what inject is asked for.
type injection struct {
	files                 []string
	profile               string
	print, uninject, diff bool
	mode, version, form   string
	profileText           []byte
	manifests             []inject.Source
}

func injectionOf(values map[string]setting) injection {
	text := func(flag string) string { return values[flag].text }
	i := injection{
		files: values[filenameFlag].texts, profile: text(profileFlag), mode: text(modeFlag), version: text(kubernetesFlag),
		print: text(printProfileFlag) == "true", uninject: text(uninjectFlag) == "true",
		diff: text(diffFlag) == "true",
	}
	if out := values[outputFlag]; out.source == "--"+outputFlag && out.text != string(cli.Text) {
		i.form = out.text
	}
	return i
}

// read reads the files.
func (i *injection) read(stdin io.Reader) error {
	var errs []error
	if !i.uninject {
		text, err := []byte(inject.ShippedText(i.profile)), error(nil)
		if len(text) == 0 {
			from := stdin
			if slices.Contains(i.files, "-") { // which has the manifests
				from = nil
			}
			text, err = yamldoc.ReadFile(i.profile, from)
		}
		if err != nil {
			err = fmt.Errorf("--%s: %w; those that there are without a file: %s", profileFlag, err,
				strings.Join(inject.Shipped(), ", "))
		}
		errs, i.profileText = append(errs, err), text
	}
	if i.print && (len(i.files) > 0 || i.uninject || i.diff || i.form != "") {
		errs = append(errs, fmt.Errorf("--%s: it prints the profile's file, and does nothing else; leave the other flags out",
			printProfileFlag))
	} else if i.diff && i.form != "" {
		errs = append(errs, fmt.Errorf("--%s: it is a text; leave --%s out", diffFlag, outputFlag))
	}
	if i.print {
		return errors.Join(errs...)
	}
	if len(i.files) == 0 {
		return errors.Join(append(errs, fmt.Errorf("--%s: missing: write -f FILE, or -f - for standard input",
			filenameFlag))...)
	}
	var err error
	if i.manifests, err = readManifests(i.files, stdin); errors.Is(err, infile.ErrTooLarge) {
		err = fmt.Errorf("%w; inject it in parts", err)
	}
	return errors.Join(append(errs, strict.Under("--"+filenameFlag, err))...)
}

// cluster is what the flags say about it.
func (i *injection) cluster() (inject.Cluster, error) {
	if i.version == "" {
		return inject.Cluster{}, nil
	}
	minor, err := inject.ParseVersion(i.version)
	return inject.Cluster{Minor: minor}, strict.Under("--"+kubernetesFlag, err)
}

func (j job) inject() error {
	i := j.injection
	if i.print {
		j.out.Write(i.profileText)
		return nil
	}
	all := make([]inject.Manifests, len(i.manifests))
	var errs []error
	for k, from := range i.manifests {
		var err error
		all[k], err = i.run(from)
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return cli.UsageError{Err: err}
	}
	for k, done := range all {
		if err := j.injected(i.manifests[k].Name, done); err != nil {
			return err
		}
	}
	return nil
}

// separator stands between the documents of a stream.
const separator = "---\n"

// separate begins another document of what is written, if there is one: JSON needs nothing between.
func (j job) separate(text []byte) {
	before := j.out.Bytes()
	if len(before) == 0 || len(text) == 0 || bytes.HasPrefix(text, []byte(separator)) || bytes.HasSuffix(before, []byte(separator)) {
		return
	}
	if !bytes.HasSuffix(before, []byte("\n")) {
		j.out.WriteByte('\n')
	}
	isJSON := func(text []byte) bool { return bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) }
	if !isJSON(before) || !isJSON(text) {
		j.out.WriteString(separator)
	}
}

// injected reports what became of a file, and writes it.
func (j job) injected(file string, done inject.Manifests) error {
	for _, o := range done.Objects {
		j.report(o)
	}
	if len(done.Objects) == 0 {
		kinds := slices.Compact(slices.Sorted(slices.Values(done.Others)))
		var more []any
		if len(kinds) > 0 {
			more = []any{"kinds", strings.Join(kinds[:min(len(kinds), 10)], ", ")}
		}
		j.log.WarnContext(j.ctx, "no pods in "+file+"; all stays as it is", more...)
	}
	if j.injection.diff {
		j.out.WriteString(done.Diff())
		return nil
	}
	switch j.output {
	case patchOutput:
		return patches(j.out, done)
	case cli.JSON:
		all, err := done.JSON()
		for _, text := range all {
			err = errors.Join(err, json.Indent(j.out, text, "", "  "))
			j.out.WriteByte('\n')
		}
		return err
	case cli.YAML:
		text, err := done.YAML()
		j.separate(text)
		j.out.Write(text)
		return err
	default:
		j.separate(done.Text())
		j.out.Write(done.Text())
		return nil
	}
}

func (i injection) run(from inject.Source) (inject.Manifests, error) {
	if i.uninject {
		return inject.ReadInjected(from.Name, from.Text)
	}
	p, err1 := inject.ParseProfile(i.profile, i.profileText)
	in, err2 := i.cluster()
	if err := errors.Join(err1, err2); err != nil {
		return inject.Manifests{}, err
	}
	if m := inject.Mode(i.mode); m != inject.ModeAuto {
		p.Mode = m
	}
	return inject.Read(from.Name, from.Text, p, in)
}

// report logs what became of an object.
func (j job) report(o inject.Object) {
	name := o.String()
	switch {
	case j.injection.uninject:
		j.log.DebugContext(j.ctx, name+": what was injected is taken out")
	case o.Skipped != "":
		j.log.WarnContext(j.ctx, name+" is left alone: "+o.Skipped)
	default:
		j.log.InfoContext(j.ctx, name+": injected", "mode", string(o.Mode), "changed", o.Changed())
	}
	for _, c := range o.Changes {
		j.log.DebugContext(j.ctx, name+": "+c.What, "why", c.Why)
	}
	for _, w := range o.Warnings {
		j.log.WarnContext(j.ctx, name+": "+w)
	}
}

// patches writes a line of JSON for each object that changes.
func patches(out *bytes.Buffer, m inject.Manifests) error {
	e := json.NewEncoder(strict.EscapedJSON(out))
	e.SetEscapeHTML(false)
	for _, o := range m.Objects {
		if !o.Changed() {
			continue
		}
		ops, err := o.Patch()
		if err != nil {
			return err
		}
		if err := e.Encode(struct {
			APIVersion string               `json:"apiVersion"`
			Kind       string               `json:"kind"`
			Namespace  string               `json:"namespace,omitempty"`
			Name       string               `json:"name"`
			Patch      []yamledit.Operation `json:"patch"`
		}{o.APIVersion, o.Kind, o.Namespace, o.Name, ops}); err != nil {
			return err
		}
	}
	return nil
}
