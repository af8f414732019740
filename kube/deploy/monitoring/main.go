// Command monitoring writes deploy/monitoring: alerts on the metrics of the nodes' agents, as a PrometheusRule, and a
// dashboard of them for Grafana. The chart has the same files. Neither names a pod: kubectl intercept status -A does.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"sigs.k8s.io/yaml"
)

func main() {
	all := dirs()
	if len(os.Args) > 1 {
		all = os.Args[1:]
	}
	for _, dir := range all {
		for name, text := range files() {
			if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
				fmt.Fprintln(os.Stderr, "monitoring:", err)
				os.Exit(1)
			}
		}
	}
}

// dirs are where the files are: for those who apply them, and in the chart.
func dirs() []string { return []string{"deploy/monitoring", "deploy/chart/files"} }

// files are the files, by name.
func files() map[string][]byte {
	rules, err := yaml.Marshal(prometheusRule())
	board, failed := json.MarshalIndent(dashboard(), "", "  ")
	if err != nil || failed != nil {
		panic(fmt.Sprint(err, failed)) // plain data always has a text
	}
	const head = "# Alerts on the nodes' agents, for the Prometheus operator.\n" +
		"# go run ./kube/deploy/monitoring writes this file.\n"
	return map[string][]byte{"prometheusrule.yaml": append([]byte(head), rules...), "dashboard.json": append(board, '\n')}
}

// alert is one alert.
type alert struct {
	name, expr, wait, severity string
	// summary is what is wrong, and remedy what to do about it.
	summary, remedy string
}

const who = "kubectl intercept status -A shows which pods, and why"

func alerts() []alert {
	return []alert{
		{"MeshCNIAgentsGone", `absent(mesh_cni_build_info)`, "10m", "critical",
			"no agent tells of itself", "look at the DaemonSet mesh-cni-agent, and whether Prometheus reaches its port"},
		{"MeshCNIAgentNotReady", `mesh_cni_ready == 0`, "10m", "critical",
			"on node {{ $labels.instance }} pods may start without interception", "ask the agent's /readyz what is in the way"},
		{"MeshCNIPodsNotIntercepted", `sum by (state) (mesh_cni_pods{state=~"missing|changed|refused|unknown"}) > 0`, "15m",
			"critical", "{{ $value }} pods that ask for interception are {{ $labels.state }}", who},
		{"MeshCNIPodsFailToStart", `sum by (reason) (increase(mesh_cni_adds_total{result="failed"}[10m])) > 0`, "5m",
			"warning", "pods do not start, because the plugin fails: {{ $labels.reason }}",
			"kubectl describe pod shows the plugin's error"},
		{"MeshCNIPodsLetThrough", `sum by (reason) (increase(mesh_cni_adds_total{result="allowed"}[10m])) > 0`, "0m",
			"critical", "pods have started without interception: {{ $labels.reason }}",
			`failurePolicy "allow" lets them; ` + who},
		{"MeshCNIRepairsFail", `sum(increase(mesh_cni_repairs_total{result="failed"}[15m])) > 0`, "5m", "critical",
			"rules that are missing could not be put in force", "the pods' events say why (RepairFailed); " + who},
		{"MeshCNIRulesChange", `sum by (kind) (increase(mesh_cni_drift_total[1h])) > 10`, "0m", "warning",
			"pods' rules are taken out or changed again and again ({{ $labels.kind }})",
			"the pods' events say which (RulesRepaired)"},
		{"MeshCNIAnotherWriter", `increase(mesh_cni_conflist_writes_total{reason="restored"}[15m]) > 3`, "0m", "warning",
			"on node {{ $labels.instance }} another program takes the plugin out of the CNI configuration",
			"the agent's /readyz says who it probably is, and which setting of it helps"},
		{"MeshCNISlow", `histogram_quantile(0.99, sum by (le) (rate(mesh_cni_add_seconds_bucket[15m]))) > 1`, "15m",
			"warning", "the plugin takes over a second to start a pod", "look at the load of the nodes, and at the agent's log"},
		{"MeshCNIEventsDropped", `sum(increase(mesh_cni_events_dropped_total[1h])) > 0`, "0m", "info",
			"the API server has not taken events about pods", "the agents' logs have what the events would have said"},
	}
}

// object is an object of JSON.
type object = map[string]any

func prometheusRule() object {
	var rules []object
	for _, a := range alerts() {
		rules = append(rules, object{"alert": a.name, "expr": a.expr, "for": a.wait, "labels": object{"severity": a.severity},
			"annotations": object{"summary": a.summary, "description": a.remedy}})
	}
	return object{"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule",
		"metadata": object{"name": "mesh-cni-agent", "namespace": "mesh-system"},
		"spec":     object{"groups": []object{{"name": "mesh-cni-agent", "rules": rules}}}}
}

// panel is one panel.
type panel struct {
	title, expr, legend, unit string
	// now is whether it shows the last value alone.
	now bool
}

func panels() []panel {
	return []panel{
		{"Agents ready", `sum(mesh_cni_ready)`, "ready", "short", true},
		{"Agents, by version", `count by (version) (mesh_cni_build_info)`, "{{version}}", "short", true},
		{"Pods that ask for interception", `sum by (state) (mesh_cni_pods)`, "{{state}}", "short", true},
		{"Pods, as the last look found them", `sum by (state) (mesh_cni_pods)`, "{{state}}", "short", false},
		{"Pods started", `sum by (result, reason) (rate(mesh_cni_adds_total[$__rate_interval]))`, "{{result}}: {{reason}}",
			"ops", false},
		{"How long the plugin took to start a pod, 99 %",
			`histogram_quantile(0.99, sum by (le, result) (rate(mesh_cni_add_seconds_bucket[$__rate_interval])))`,
			"{{result}}", "s", false},
		{"Pods found without their rules, or with others", `sum by (kind) (increase(mesh_cni_drift_total[$__rate_interval]))`,
			"{{kind}}", "short", false},
		{"Repairs", `sum by (result) (increase(mesh_cni_repairs_total[$__rate_interval]))`, "{{result}}", "short", false},
		{"Pods where a container can pass as the proxy, or past it", `sum by (warning) (mesh_cni_pod_warnings)`,
			"{{warning}}", "short", false},
		{"The plugin's entry written",
			`sum by (instance, reason) (increase(mesh_cni_conflist_writes_total[$__rate_interval]))`, "{{instance}}: {{reason}}",
			"short", false},
		{"Other calls of the plugin", `sum by (command, result) (rate(mesh_cni_calls_total[$__rate_interval]))`,
			"{{command}}: {{result}}", "ops", false},
		{"Questions about pods", `sum by (verb, result) (increase(mesh_cni_answers_total[$__rate_interval]))`,
			"{{verb}}: {{result}}", "short", false},
		{"Events that the API server did not take", `sum(increase(mesh_cni_events_dropped_total[$__rate_interval]))`,
			"events", "short", false},
	}
}

func dashboard() object {
	source := object{"type": "prometheus", "uid": "${datasource}"}
	var all []object
	const width, height = 8, 7 // of 24
	for i, p := range panels() {
		kind := "timeseries"
		if p.now {
			kind = "stat"
		}
		all = append(all, object{"id": i + 1, "type": kind, "title": p.title, "datasource": source,
			"gridPos":     object{"x": i % 3 * width, "y": i / 3 * height, "w": width, "h": height},
			"fieldConfig": object{"defaults": object{"unit": p.unit}, "overrides": []any{}},
			"targets": []object{{"refId": "A", "datasource": source, "expr": p.expr, "legendFormat": p.legend,
				"instant": p.now}}})
	}
	return object{"title": "Interception: the nodes' agents", "uid": "mesh-cni-agent", "tags": []string{"intercept"},
		"schemaVersion": 39, "editable": true, "refresh": "1m", "time": object{"from": "now-6h", "to": "now"},
		"templating": object{"list": []object{{"name": "datasource", "type": "datasource", "query": "prometheus",
			"label": "Prometheus"}}},
		"panels": all}
}
