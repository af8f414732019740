//go:build linux

package soak

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/kube/testing/kubeapi"
	"github.com/mesh-intercept/intercept/testing/faults"
)

// agent is the agent of a node that has one pod.
type agent struct {
	p    *pod
	api  *kubeapi.Server
	root string
	log  *os.File
	// cgroup is the file by which the agent finds the pod's process.
	cgroup string
	uid    string
	pods   int // that there have been
	// often: of its netlink calls one in so many fails; 0: none.
	often atomic.Int64

	mu    sync.Mutex
	cmd   *exec.Cmd
	ended chan struct{}
	first usage // of the one that runs, when it was first looked at
}

// usage is what a process holds.
type usage struct{ descriptors, threads, kilobytes int }

func newAgent(t *testing.T, p *pod) *agent {
	t.Helper()
	a := &agent{p: p, root: t.TempDir(), api: kubeapi.New(t, kubeapi.Options{StreamLists: true})}
	list := "{\"name\":\"pods\",\"cniVersion\":\"1.0.0\",\"plugins\":[{\"type\":\"first\"}]}\n"
	conf := fmt.Sprintf(`{"logFile":"","backend":%q,"annotationLimits":{"*":"free"}}`, p.backend)
	sleeper := exec.Command("cat")
	in, err := sleeper.StdinPipe()
	if err == nil {
		err = p.lab.Pod.Start(sleeper, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = sleeper.Wait() })
	pid := strconv.Itoa(sleeper.Process.Pid)
	real, dir := "/proc/"+pid, filepath.Join(a.root, "proc", pid)
	stat, err := os.ReadFile(real + "/stat")
	for _, err := range []error{
		err, os.MkdirAll(dir, 0o755), os.Mkdir(filepath.Join(a.root, "net.d"), 0o755),
		os.Mkdir(filepath.Join(a.root, "bin"), 0o755),
		os.WriteFile(filepath.Join(a.root, "net.d", "10.conflist"), []byte(list), 0o644),
		os.WriteFile(filepath.Join(a.root, "bin", "first"), nil, 0o755),
		os.WriteFile(filepath.Join(a.root, "plugin.json"), []byte(conf), 0o600),
		os.Symlink(real+"/ns", dir+"/ns"), os.Symlink(real+"/root", dir+"/root"), os.WriteFile(dir+"/stat", stat, 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	a.cgroup = dir + "/cgroup"
	if a.log, err = os.Create(filepath.Join(a.root, "log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		a.kill()
		if t.Failed() {
			text, _ := os.ReadFile(a.log.Name())
			t.Logf("the agent of %s, at its end:\n%s", p.name, text[max(0, len(text)-2000):])
		}
		a.log.Close()
	})
	return a
}

// ask has a pod ask for a configuration: one that the agent has not seen yet, in the place of the last.
func (a *agent) ask(c intercept.Config) error {
	a.pods++
	a.uid = fmt.Sprintf("0f1e2d3c-4b5a-6978-8796-%012x", a.pods)
	if err := os.WriteFile(a.cgroup, []byte("0::/kubepods/besteffort/pod"+a.uid+"/3f2a\n"), 0o600); err != nil {
		return err
	}
	a.api.Put(corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: a.p.name, UID: types.UID(a.uid),
			Annotations: map[string]string{"intercept.mesh/enabled": "true", "intercept.mesh/config": string(must(file(c)))}},
		Spec: corev1.PodSpec{NodeName: "node"},
	})
	return nil
}

// forget takes the pod away from the agent. It may be at work on it.
func (a *agent) forget() { a.api.Delete("default", a.p.name) }

// start starts the agent, if it does not run.
func (a *agent) start() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cmd != nil {
		return nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	address := l.Addr().String()
	l.Close()
	cmd := exec.Command(a.p.tools.path("mesh-cni-agent"), "run", "--cni-conf-dir", filepath.Join(a.root, "net.d"),
		"--cni-bin-dir", filepath.Join(a.root, "bin"), "--plugin", a.p.tools.path("mesh-cni"),
		"--plugin-conf", filepath.Join(a.root, "plugin.json"), "--socket", filepath.Join(a.root, "agent.sock"),
		"--proc", filepath.Join(a.root, "proc"), "--cri-socket", "none", "--node", "node", "--api-server", a.api.URL,
		"--token-file", a.api.TokenFile, "--ca-file", a.api.CAFile, "--listen", address, "--repair-interval", "1s",
		"--keep-on-exit")
	cmd.Stdout, cmd.Stderr = a.log, a.log
	choice := rand.New(rand.NewPCG(uint64(a.pods), 5)) // of the one goroutine that asks
	injector := &faults.Injector{Choose: func(faults.Call) faults.Fault {
		return chooseFault(int(a.often.Load()), choice)
	}}
	started, ended := make(chan struct{}), make(chan struct{})
	var failed error
	go func() {
		defer close(ended)
		failed = injector.Run(cmd, func() { close(started) })
		a.p.add(lostCalls, injector.Lost.Load())
		a.p.add(interrupted, injector.Interrupted.Load())
	}()
	select {
	case <-started:
	case <-ended:
		return failed
	}
	a.cmd, a.ended, a.first = cmd, ended, usage{}
	return nil
}

// kill kills it, and reports whether it ran.
func (a *agent) kill() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cmd == nil {
		return false
	}
	killed := a.cmd.Process.Kill() == nil
	<-a.ended
	status, ok := a.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() || status.Signal() != syscall.SIGKILL {
		a.p.violated("the agent has ended by itself: %s", a.cmd.ProcessState)
	}
	a.cmd = nil
	return killed
}

// weigh holds what the agent has against what it had.
func (a *agent) weigh() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cmd == nil {
		return nil
	}
	now, err := weigh(a.cmd.Process.Pid)
	if err != nil {
		return err
	}
	if a.first == (usage{}) {
		a.first = now
	}
	const descriptors, threads, kilobytes = 20, 20, 40_000
	if now.descriptors > a.first.descriptors+descriptors || now.threads > a.first.threads+threads ||
		now.kilobytes > a.first.kilobytes+kilobytes {
		a.p.violated("the agent had %+v, and has %+v", a.first, now)
	}
	return nil
}

func weigh(pid int) (u usage, err error) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	all, err := os.ReadDir(dir + "fd")
	if err != nil {
		return u, err
	}
	status, err := os.ReadFile(dir + "status")
	u.descriptors = len(all)
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(strings.TrimSuffix(strings.TrimSpace(line), " kB"), ":")
		n, _ := strconv.Atoi(strings.TrimSpace(value))
		switch name {
		case "Threads":
			u.threads = n
		case "VmRSS":
			u.kilobytes = n
		}
	}
	return u, err
}

// until waits for something that takes a while, and no more than a minute.
func until(is func() bool) error {
	for range 600 {
		if is() {
			return nil
		}
		<-time.After(100 * time.Millisecond)
	}
	return errors.New("not within a minute")
}
