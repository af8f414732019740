//go:build linux && cluster

package cluster

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// A shop is testdata/shop.yaml in a namespace, with sidecars.
type shop struct {
	*cluster
	ns string
}

// manifests is shop.yaml for the namespace, or the objects in it that have a name.
func (s shop) manifests(names ...string) string {
	s.t.Helper()
	b, err := os.ReadFile("testdata/shop.yaml")
	if err != nil {
		s.t.Fatal(err)
	}
	docs := strings.Split(strings.ReplaceAll(string(b), "web.default.svc", "web."+s.ns+".svc"), "---\n")
	return strings.Join(slices.DeleteFunc(docs, func(doc string) bool {
		return len(names) > 0 && !slices.ContainsFunc(names, func(name string) bool {
			return strings.Contains(doc, "\nmetadata: {name: "+name+"}\n")
		})
	}), "---\n")
}

// run runs a part of a test of the shop.
func (s shop) run(name string, part func(shop)) {
	s.t.Run(name, func(t *testing.T) { part(shop{s.in(t), s.ns}) })
}

// k runs kubectl in the namespace, which has to succeed.
func (s shop) k(args ...string) string {
	s.t.Helper()
	return s.kubectl(append([]string{"-n", s.ns}, args...)...)
}

// inApp runs a program in the app's container of a workload.
func (s shop) inApp(workload string, args ...string) string {
	s.t.Helper()
	return s.k(append([]string{"exec", workload, "--"}, args...)...)
}

// get asks for a URL from the app's container of a workload.
func (s shop) get(workload, url string) string {
	s.t.Helper()
	return s.inApp(workload, "curl", "-sS", "-f", "--max-time", "20", "http://"+url)
}

// await waits for what a pod of an app is to be: a jsonpath and its value, or a
// condition.
func (s shop) await(app, what string) {
	s.t.Helper()
	s.k("wait", "--for="+what, "--timeout=120s", "pod", "-l", "app="+app)
}

// field is a field of the pods of an app.
func (s shop) field(app, path string) string {
	s.t.Helper()
	return s.k("get", "pods", "-l", "app="+app, "-o", "jsonpath={"+path+"}")
}

func restarts(app string) string {
	return `.status.containerStatuses[?(@.name=="` + app + `")].restartCount`
}

// restarted is how often the app's container of a pod has been started again.
func (s shop) restarted(app, pod string) (count int) {
	s.t.Helper()
	if _, err := fmt.Sscan(s.k("get", pod, "-o", "jsonpath={"+restarts(app)+"}"), &count); err != nil {
		s.t.Fatal(err)
	}
	return count
}

// settled waits until everything of the shop is up.
func (s shop) settled() {
	s.t.Helper()
	for workload := range strings.FieldsSeq(s.k("get", "deployments,statefulsets", "-o", "name")) {
		if _, err := s.try("-n", s.ns, "rollout", "status", workload, "--timeout=240s"); err != nil {
			s.t.Fatalf("%s: %v\n%s", workload, err, s.k("get", "pods", "-o", "wide"))
		}
	}
}

var connection = regexp.MustCompile(`(outbound|inbound): (\S+) to (\S+) from (\S+)`)

// connections are those in the logs of HAProxy in the sidecars of an app: by the
// address that each went on from, the client's and the one that it asked for.
func (s shop) connections(app, direction string) map[string][2]string {
	s.t.Helper()
	all := map[string][2]string{}
	log := s.k("logs", "-l", "app="+app, "-c", "haproxy", "--tail=-1")
	for _, m := range connection.FindAllStringSubmatch(log, -1) {
		if m[1] == direction {
			all[m[4]] = [2]string{m[2], m[3]}
		}
	}
	return all
}

// through expects that a server that saw a connection from an address got it through
// both sidecars, and that they saw where it was going: the client's the first
// destination, the server's the second, each a pattern.
func (s shop) through(from, client, first, server, second string) {
	s.t.Helper()
	var in, out [2]string
	s.Await(fmt.Sprintf("the way from %s to %s, as HAProxy logs it", client, from), func() bool {
		in = s.connections(server, "inbound")[from]
		out = s.connections(client, "outbound")[in[0]]
		return out[0] != ""
	})
	for _, want := range [][2]string{{first, out[1]}, {second, in[1]}} {
		if !regexp.MustCompile("^(" + want[0] + ")$").MatchString(want[1]) {
			s.t.Errorf("%s to %s: a sidecar saw the destination %s, not %s", client, server, want[1], want[0])
		}
	}
}

// addresses is a pattern of those of an app's pods, with a port.
func (s shop) addresses(app string, port int) string {
	s.t.Helper()
	pods := strings.Fields(s.field(app, ".items[*].status.podIP"))
	return fmt.Sprintf("(%s):%d", strings.ReplaceAll(strings.Join(pods, "|"), ".", `\.`), port)
}

func (s shop) clusterIP(service string) string {
	s.t.Helper()
	return s.k("get", "service", service, "-o", "jsonpath={.spec.clusterIP}")
}

// services: apps call each other by every name and address that there is.
func services(s shop) {
	ip, pods := s.clusterIP("web"), s.addresses("web", 8080)
	for _, client := range []string{"client", "boxed"} {
		for host, first := range map[string]string{
			"web":                                ip + ":80",
			"web." + s.ns:                        ip + ":80",
			"web." + s.ns + ".svc":               ip + ":80",
			"web." + s.ns + ".svc.cluster.local": ip + ":80",
			ip:                                   ip + ":80",
			"web-pods:8080":                      pods,
			"catalog":                            ip + ":80",
		} {
			from := s.get("deploy/"+client, host+"/clientip")
			if !strings.HasPrefix(from, "127.0.0.6:") {
				s.t.Errorf("%s to %s: the app saw %s, which is no sidecar of its own", client, host, from)
				continue
			}
			s.through(from, client, first, "web", pods)
		}
	}
	// The proxy's log has connections, and no complaints nor kubelet's probes of it.
	if log := s.k("logs", "deploy/client", "-c", "haproxy"); strings.Contains(log, "WARNING") ||
		strings.Contains(log, "health") {
		s.t.Errorf("HAProxy's log: %s", log)
	}
	root := s.inApp("deploy/boxed", "sh", "-c", "read inside outside count </proc/self/uid_map; echo $outside")
	if root == "0" {
		s.t.Error("boxed has the node's users")
	}
	// An app may get to itself by its Service.
	for range 4 {
		s.get("deploy/web", "web/hostname")
	}
}

// readiness: what kubelet says is what the app is, though the proxy always accepts.
func readiness(s shop) {
	ip := s.field("dying", ".items[*].status.podIP")
	s.inApp("deploy/dying", "sh", "-c", "read pid </run/app/pid; kill $pid")
	s.await("dying", "condition=Ready=false")
	if out := s.Inside(s.part, "client", "tcp", ip+":8080"); strings.Contains(out, "refused") {
		s.t.Errorf("the proxy does not live: %s", out)
	}
	if n := s.field("dying", ".items[*].status.initContainerStatuses[*].restartCount"); strings.Trim(n, "0 ") != "" {
		s.t.Errorf("a sidecar was restarted: %s", n)
	}
	if log := s.k("logs", "deploy/dying", "-c", "mesh-probe"); !strings.Contains(log, "connection refused") {
		s.t.Errorf("mesh-probe does not say why: %s", log)
	}
	s.Await("a Service without pods", func() bool {
		_, err := s.try("-n", s.ns, "exec", "deploy/client", "--", "curl", "-sS", "-f", "--max-time", "5", "http://dying")
		return err != nil
	})
	s.inApp("deploy/dying", "sh", "-c", "echo go >/run/app/up")
	s.await("dying", "condition=Ready")
	s.get("deploy/client", "dying/hostname")

	// An app that ends.
	pod := "pod/" + s.field("web", ".items[0].metadata.name")
	since := func() time.Time {
		text := s.k("get", pod, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].lastTransitionTime}`)
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			s.t.Fatal(err)
		}
		return at
	}
	before, count := since(), s.restarted("web", pod)
	// curl's end is no better.
	_, _ = s.try("-n", s.ns, "exec", pod, "--", "curl", "-s", "http://127.0.0.1:8080/exit?code=3")
	s.k("wait", fmt.Sprintf("--for=jsonpath={%s}=%d", restarts("web"), count+1), "--timeout=120s", pod)
	s.k("wait", "--for=condition=Ready", "--timeout=120s", pod)
	if after := since(); !after.After(before) {
		s.t.Errorf("%s was ready all the time", pod)
	}
}

// liveness: kubelet starts a container again whose port is dead.
func liveness(s shop) {
	count := s.restarted("revived", "pod/"+s.field("revived", ".items[0].metadata.name"))
	s.inApp("deploy/revived", "sh", "-c", "read pid </run/app/pid; kill $pid")
	s.await("revived", fmt.Sprintf("jsonpath={%s}=%d", restarts("revived"), count+1))
	s.await("revived", "condition=Ready")
	if note := s.happened("revived", "Unhealthy"); !strings.Contains(note, "Liveness probe failed") {
		s.t.Errorf("kubelet says %q", note)
	}
}

// startup: kubelet waits for an app that takes its time.
func startup(s shop) {
	if n := s.field("slow", ".items[*]"+restarts("slow")); n != "0" {
		s.t.Errorf("slow was started %s times more", n)
	}
	if note := s.happened("slow", "Unhealthy"); !strings.Contains(note, "Startup probe failed") {
		s.t.Errorf("kubelet says %q", note)
	}
}

// happened is what the events of a pod of an app say.
func (s shop) happened(app, reason string) string {
	s.t.Helper()
	return s.k("get", "events", "--field-selector",
		"involvedObject.name="+s.field(app, ".items[0].metadata.name")+",reason="+reason,
		"-o", "jsonpath={.items[*].message}")
}

// jobs: work ends, and its sidecars with it.
func jobs(s shop) {
	s.k("wait", "--for=condition=Complete", "--timeout=120s", "job/order")
	phase := s.k("get", "pods", "-l", "job-name=order", "-o", "jsonpath={.items[*].status.phase}")
	if phase != "Succeeded" {
		s.t.Errorf("the Job's pod is %s", phase)
	}
	s.k("wait", "--for=jsonpath={.status.lastSuccessfulTime}", "--timeout=180s", "cronjob/orders")
}

// stateful: a StatefulSet's pod is called by its own name, and its sidecars live
// longer than it, at both ends.
func stateful(s shop) {
	want := []string{"dnsmasq", "haproxy", "mesh-probe", "migrate"}
	names := strings.Fields(s.field("db", ".items[*].spec.initContainers[*].name"))
	if names[0] == "mesh-init" {
		names = names[1:]
	}
	if !slices.Equal(names, want) {
		s.t.Errorf("init containers %v, not %v", names, want)
	}
	if always := s.field("db", ".items[*].spec.initContainers[*].restartPolicy"); always != "Always Always Always" {
		s.t.Errorf("restart policies %q", always)
	}
	if said := s.k("logs", "db-0", "-c", "migrate"); !strings.HasSuffix(said, "migrated") {
		s.t.Errorf("its init container got %q", said)
	}
	pod := s.addresses("db", 8080)
	s.through(s.get("deploy/client", "db-0.db:8080/clientip"), "client", pod, "db", pod)
	s.k("delete", "pod", "db-0", "--timeout=120s")
	s.Await("the goodbye of db-0", func() bool {
		return strings.Contains(s.k("logs", "-l", "app=web", "--tail=-1", "-c", "web"), "msg=goodbye")
	})
	s.k("rollout", "status", "statefulset/db", "--timeout=120s")
}

// ingress: users reach the ingress controller directly, and it reaches the store
// through its sidecar, by a Service and with the Host that the store expects.
func ingress(s shop) {
	visitor := s.kubectl("get", "pod", "visitor", "-o", "jsonpath={.status.podIP}")
	port := s.k("get", "service", "ingress", "-o", "jsonpath={.spec.ports[0].nodePort}")
	ask := func(url string) {
		s.t.Helper()
		out := s.kubectl("exec", "visitor", "--", "curl", "-sS", "--max-time", "20", "-H", "Host: shop.example",
			"http://"+url)
		if out != "asked as store.internal by 127.0.0.6" {
			s.t.Errorf("%s says %q", url, out)
		}
		log := s.k("logs", "deploy/ingress")
		if want := "user " + visitor + " asked for shop.example"; !strings.Contains(log, want) {
			s.t.Errorf("no %q in %s", want, log)
		}
	}
	ask("ingress." + s.ns)
	ask(nodeAddress + ":" + port)
	ask(s.field("ingress", ".items[*].status.podIP") + ":8080")
	ip, pods := s.clusterIP("store")+":80", s.addresses("store", 8080)
	s.Await("three connections of the ingress controller", func() bool {
		return len(s.connections("ingress", "outbound")) >= 3
	})
	for _, c := range s.connections("ingress", "outbound") {
		if c[1] != ip {
			s.t.Errorf("the ingress controller called %s, not %s", c[1], ip)
		}
	}
	if in := s.connections("ingress", "inbound"); len(in) > 0 {
		s.t.Errorf("its users came by the sidecar: %v", in)
	}
	for _, c := range s.connections("store", "inbound") {
		if !regexp.MustCompile(pods).MatchString(c[1]) {
			s.t.Errorf("the store's sidecar saw the destination %s", c[1])
		}
	}
}
