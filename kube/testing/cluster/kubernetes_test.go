//go:build linux && cluster

package cluster

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept/kube/testing/node"
)

const (
	nodeName    = "node-1"
	nodeAddress = "192.0.2.10"
	// apiAddress is that of the Service kubernetes. Without a kube-proxy the API
	// server listens at it.
	apiAddress = "10.96.0.1"
	taint      = "intercept.mesh/not-ready"
)

// options say what a cluster has.
type options struct {
	// proxy is the mode of kube-proxy. Empty: there is none.
	proxy string
	// webhook is whether pods get their sidecars from the API server. Otherwise
	// mesh-init writes them into manifests.
	webhook bool
	// taint is what the node is born with. Empty: nothing.
	taint string
}

// A cluster is a node with a control plane.
type cluster struct {
	*node.Node
	o       options
	t       *testing.T
	program string // that of tools/kubernetes
	part    string // that of the images
	running map[string]*exec.Cmd
}

// setup is what a kubelet needs of its node: that what it mounts is seen by
// containerd, and a cgroup.
const setup = `
	mount --make-rshared /
	if [ -e /sys/fs/cgroup/cgroup.controllers ]; then mkdir -p "/sys/fs/cgroup$CGROUP"; else
		for hierarchy in /sys/fs/cgroup/*/; do mkdir -p "$hierarchy$CGROUP"; done
	fi
	rm -f /etc/resolv.conf; echo nameserver 10.96.0.10 >/etc/resolv.conf
	mkdir -p "$DISK/static"
`

// uplink is where the node's default route leads, and nothing goes on from there.
// Without a route the node's own processes cannot call a Service.
const uplink = `
	ip link add uplink type bridge; ip link set uplink up
	ip address add ` + nodeAddress + `/24 dev uplink; ip route add default via 192.0.2.1
`

// sysctls is kubelet's way to its start: it would set sysctls of the whole
// machine, and finds files in their place that say what it wants to read. They
// are in a mount namespace of its own, since a user namespace may mount /proc
// only where all of it can be seen.
const sysctls = `
	mount --make-rprivate /proc
	for pair in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
		kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
		file=/run/sysctl.$(echo "${pair%=*}" | tr / .)
		echo "${pair#*=}" >"$file"
		mount --bind "$file" "/proc/sys/${pair%=*}"
	done
	exec "$@"
`

// newCluster starts a cluster. Its pods have a network of bridge and host-local.
func newCluster(t *testing.T, part string, o options) *cluster {
	t.Helper()
	programs := os.Getenv(node.Variable)
	if programs == "" {
		t.Fatalf("%s names no directory with a Kubernetes; run: make cluster", node.Variable)
	}
	with := node.Options{Part: part, Setup: setup + uplink}
	server, taints := nodeAddress+":6443", ""
	if o.proxy == "" {
		with.Addresses, with.Setup, server = []string{nodeAddress, apiAddress}, setup, apiAddress
	}
	if o.taint != "" {
		taints = "{key: " + o.taint + ", effect: NoSchedule}"
	}
	c := &cluster{o: o, t: t, program: filepath.Join(programs, "kubernetes"), part: part, running: map[string]*exec.Cmd{}}
	c.Node = node.New(t, with)
	c.write("net.d/10-pods.conflist", list)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	c.write("sa.key", string(
		pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})))
	// Who has which token, and is in which group.
	c.write("tokens.csv", "admin,admin,admin,system:masters\nkubelet,system:node:"+nodeName+",kubelet,system:nodes\n")
	for _, who := range []string{"admin", "kubelet"} {
		c.write(who+".kubeconfig", fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: x,
clusters: [{name: c, cluster: {server: "https://%s", insecure-skip-tls-verify: true}}],
users: [{name: u, user: {token: %s}}], contexts: [{name: x, context: {cluster: c, user: u}}]}`, server, who))
	}
	c.write("kubelet.yaml", fmt.Sprintf(`
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
cgroupRoot: %s
failCgroupV1: false
failSwapOn: false
makeIPTablesUtilChains: false
containerRuntimeEndpoint: unix://%s
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
enforceNodeAllocatable: []
oomScoreAdj: 0 # less takes CAP_SYS_RESOURCE
staticPodPath: %s
fileCheckFrequency: 1s
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
evictionHard: {memory.available: 1Mi}
registerWithTaints: [%s]
`, c.Cgroup, c.Path("containerd.sock"), c.Path("static"), taints))
	c.startKubernetes()
	return c
}

// list is a network of pods as another plugin's installer might write it.
const list = `{
	"cniVersion":"1.1.0",  "name": "pods",
	"plugins": [
		{ "type":"bridge", "bridge":"cni0", "isGateway":true, "hairpinMode":true,
		  "ipam": {"type":"host-local", "dataDir":"/run/ipam", "ranges":[[{"subnet":"10.88.0.0/16"}]],
		            "routes":[{"dst":"0.0.0.0/0"}]} }
	]
}
`

// in is the cluster for a part of its test.
func (c *cluster) in(t *testing.T) *cluster {
	part := *c
	part.t, part.Node = t, c.For(t)
	return &part
}

func (c *cluster) write(name, text string) {
	c.t.Helper()
	if err := os.WriteFile(c.Path(name), []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// startKubernetes starts what a node with a control plane runs.
func (c *cluster) startKubernetes() {
	c.t.Helper()
	c.start("etcd", "--data-dir", c.Path("etcd"), "--unsafe-no-fsync",
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380")
	c.startAPI()
	admin := "--kubeconfig=" + c.Path("admin.kubeconfig")
	c.start("kube-controller-manager", admin, "--leader-elect=false", "--use-service-account-credentials=true",
		"--root-ca-file="+c.Path("pki/apiserver.crt"), "--service-account-private-key-file="+c.Path("sa.key"))
	c.start("kube-scheduler", admin, "--leader-elect=false")
	c.start("kubelet", "--kubeconfig="+c.Path("kubelet.kubeconfig"), "--config="+c.Path("kubelet.yaml"),
		"--root-dir="+c.Path("kubelet"),
		"--hostname-override="+nodeName, "--node-ip="+nodeAddress)
	if c.o.proxy != "" {
		c.startProxy(c.o.proxy)
	}
	c.Await("the node to be ready", func() bool {
		out, err := c.try("get", "node", nodeName, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
		return err == nil && out == "True"
	})
}

// startProxy starts kube-proxy in a mode. It leaves conntrack as it is, which is
// the machine's.
func (c *cluster) startProxy(mode string) {
	c.t.Helper()
	c.start("kube-proxy", "--kubeconfig="+c.Path("admin.kubeconfig"), "--proxy-mode="+mode,
		"--hostname-override="+nodeName, "--cluster-cidr=10.88.0.0/16", "--conntrack-max-per-core=0",
		"--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0")
}

func (c *cluster) startAPI() {
	c.t.Helper()
	port := "443"
	if c.o.proxy != "" {
		port = "6443"
	}
	c.start("kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", "--cert-dir="+c.Path("pki"), "--secure-port="+port,
		"--advertise-address="+nodeAddress, "--bind-address=0.0.0.0", "--service-cluster-ip-range=10.96.0.0/16",
		"--service-account-key-file="+c.Path("sa.key"), "--service-account-signing-key-file="+c.Path("sa.key"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--token-auth-file="+c.Path("tokens.csv"), "--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--kubelet-preferred-address-types=InternalIP", "--allow-privileged")
	c.Await("the API server", func() bool {
		out, err := c.try("get", "--raw", "/readyz")
		return err == nil && out == "ok"
	})
}

// start starts one of Kubernetes' programs on the node.
func (c *cluster) start(name string, args ...string) {
	c.t.Helper()
	log := c.Log(name)
	defer log.Close()
	args = append([]string{c.program, name}, args...)
	if name == "kubelet" {
		args = append([]string{"unshare", "--mount", "--propagation", "unchanged", "/bin/sh", "-ec", sysctls, "sh"}, args...)
	}
	cmd := c.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := c.Net.Start(cmd, nil); err != nil {
		c.t.Fatal(err)
	}
	c.running[name] = cmd
}

// kill ends one of them.
func (c *cluster) kill(name string) {
	c.t.Helper()
	if err := node.KillChild(c.running[name]); err != nil {
		c.t.Fatal(err)
	}
}

// try runs kubectl.
func (c *cluster) try(args ...string) (string, error) { return c.tryWith("", args...) }

func (c *cluster) tryWith(stdin string, args ...string) (string, error) {
	c.t.Helper()
	cmd := c.Command(c.program,
		append([]string{"kubectl", "--kubeconfig", c.Path("admin.kubeconfig"), "--cache-dir", c.Path("kubectl")}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := c.Net.Start(cmd, nil); err != nil {
		c.t.Fatal(err)
	}
	err := cmd.Wait()
	if err != nil {
		err = errors.Join(err, errors.New(strings.TrimSpace(stderr.String())))
	}
	return strings.TrimSpace(stdout.String()), err
}

// kubectl runs kubectl, which has to succeed.
func (c *cluster) kubectl(args ...string) string {
	c.t.Helper()
	out, err := c.try(args...)
	if err != nil {
		c.t.Fatalf("kubectl %s: %v", strings.Join(args, " "), err)
	}
	return out
}

func (c *cluster) apply(yaml string) {
	c.t.Helper()
	if out, err := c.tryWith(yaml, "apply", "-f", "-"); err != nil {
		c.t.Fatalf("kubectl apply: %s%v\n%s", out, err, yaml)
	}
}
