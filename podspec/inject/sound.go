package inject

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/yamldoc"
)

// bounds are what the API server asks of fields' values (pkg/apis/core/validation), by type: FIELD=LEAST..MOST of
// numbers, FIELD=A|B of words. FIELD! has to be there.
const bounds = `
Container image! imagePullPolicy=Always|IfNotPresent|Never terminationMessagePolicy=File|FallbackToLogsOnError
ContainerPort containerPort!1..65535 hostPort=1..65535 protocol=TCP|UDP|SCTP
EnvVar name!
ObjectFieldSelector fieldPath!
VolumeMount name! mountPath! mountPropagation=None|HostToContainer|Bidirectional
Probe initialDelaySeconds=0..2147483647 timeoutSeconds=0..2147483647 periodSeconds=0..2147483647 ` +
	`successThreshold=0..2147483647 failureThreshold=0..2147483647 terminationGracePeriodSeconds=1..2147483647
ExecAction command!
HTTPGetAction port!1..65535 scheme=HTTP|HTTPS
HTTPHeader name!
TCPSocketAction port!1..65535
GRPCAction port!1..65535
SecurityContext runAsUser=0..2147483647 runAsGroup=0..2147483647
SeccompProfile type!RuntimeDefault|Unconfined|Localhost
SecretVolumeSource secretName!
ConfigMapVolumeSource name!
PersistentVolumeClaimVolumeSource claimName!
HostPathVolumeSource path!
KeyToPath key! path!
`

// sound reports what the API server would refuse of a completed value of a type that
// [schema.check] has found to be one. It knows the rules that people run into, and not all.
func (s schema) sound(errs *strict.Errors, path, typ string, n *yaml.Node) {
	typ, _, _ = strings.Cut(typ, "/")
	if item, list := strings.CutPrefix(typ, "[]"); list {
		for i, v := range yamldoc.Items(n) {
			s.sound(errs, path+"["+strconv.Itoa(i)+"]", item, v)
		}
		return
	}
	if n.Kind != yaml.MappingNode {
		return
	}
	fail := func(field string, at *yaml.Node, format string, args ...any) {
		if at == nil {
			at = n
		}
		errs.Add(&strict.Error{Path: strict.Join(path, field), Line: at.Line, Err: fmt.Errorf(format, args...)})
	}
	rules := s[boundsOf+typ]
	for _, field := range slices.Sorted(maps.Keys(rules)) {
		v, rule := yamldoc.Get(n, field), rules[field]
		rule, needed := strings.CutPrefix(rule, "!")
		least, most, isRange := strings.Cut(rule, "..")
		switch text := yamldoc.Text(v); {
		case text == "" && len(yamldoc.Items(v)) == 0:
			if needed {
				fail(field, v, "missing")
			}
		case isRange && v.ShortTag() == "!!int":
			if !within(text, least, most) {
				fail(field, v, "%s is not a number from %s to %s", strict.Clip(text), least, most)
			}
		case rule != "" && !isRange && !slices.Contains(strings.Split(rule, "|"), text):
			fail(field, v, "%q is not one of %s", strict.Clip(text), strings.ReplaceAll(rule, "|", ", "))
		}
	}
	switch typ {
	case "Container":
		for _, f := range []string{"livenessProbe", "startupProbe"} {
			if v := yamldoc.Get(n, f, "successThreshold"); !slices.Contains([]string{"", "0", "1"}, yamldoc.Text(v)) {
				fail(f+".successThreshold", v, "%s is not 1, which it has to be here", strict.Clip(v.Value))
			}
		}
		paths := map[string]bool{}
		for i, m := range yamldoc.Items(yamldoc.Get(n, "volumeMounts")) {
			at := yamldoc.Text(yamldoc.Get(m, "mountPath"))
			if paths[at] {
				fail(fmt.Sprintf("volumeMounts[%d].mountPath", i), m, "%s is there twice", strict.Clip(at))
			}
			paths[at] = true
		}
	case "SecurityContext":
		if yamldoc.Text(yamldoc.Get(n, "privileged")) == "true" &&
			yamldoc.Text(yamldoc.Get(n, "allowPrivilegeEscalation")) == "false" {
			fail("privileged", yamldoc.Get(n, "privileged"), "true, and allowPrivilegeEscalation is false; leave privileged out")
		}
	case "ResourceRequirements":
		limits := yamldoc.Get(n, "limits")
		for _, of := range []string{"limits", "requests"} {
			list := yamldoc.Get(n, of)
			for i := 0; list != nil && i+1 < len(list.Content); i += 2 {
				name, v := list.Content[i].Value, list.Content[i+1]
				amount, _ := quantity(v.Value)
				most := yamldoc.Text(yamldoc.Get(limits, name))
				limit, limited := quantity(most)
				switch at := strict.Join(of, strict.Clip(name)); {
				case amount < 0:
					fail(at, v, "%s is negative", strict.Clip(v.Value))
				case limited && amount > limit*(1+1e-12): // as exact as the arithmetic
					fail(at, v, "%s is more than the limit, %s; give both", strict.Clip(v.Value), strict.Clip(most))
				}
			}
		}
	}
	if kinds := oneOf(typ); typ != "EnvVar" && len(kinds) > 0 {
		var has []string
		for i := 0; i+1 < len(n.Content); i += 2 {
			if key := n.Content[i].Value; slices.Contains(kinds, key) && !yamldoc.IsNull(n.Content[i+1]) {
				has = append(has, key)
			}
		}
		if len(has) != 1 {
			fail("", nil, "it has %d handlers (%s), and needs one", len(has), strings.Join(has, ", "))
		}
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i].Value
		s.sound(errs, strict.Join(path, strict.Clip(key)), s[typ][key], n.Content[i+1])
	}
}

func within(text, least, most string) bool {
	n, err := strconv.ParseInt(text, 10, 64)
	low, _ := strconv.ParseInt(least, 10, 64) // constants
	high, _ := strconv.ParseInt(most, 10, 64)
	return err == nil && low <= n && n <= high
}

// mounted reports mounts of volumes that there are not.
func mounted(errs *strict.Errors, path string, c *yaml.Node, names []string) {
	for i, m := range yamldoc.Items(yamldoc.Get(c, "volumeMounts")) {
		if name := nameOf(m); name != "" && !slices.Contains(names, name) {
			errs.Add(&strict.Error{Path: fmt.Sprintf("%svolumeMounts[%d].name", path, i), Line: m.Line, Err: fmt.Errorf(
				"there is no volume %q; %s", strict.Clip(name), strict.Hint(name, names, "there are: "+strings.Join(names, ", ")))})
		}
	}
}

func namesOf(list []*yaml.Node) []string {
	var all []string
	for _, n := range list {
		all = append(all, nameOf(n))
	}
	return all
}
