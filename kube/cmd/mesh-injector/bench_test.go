package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/mesh-intercept/intercept/kube/internal/injector/certs"
	"github.com/mesh-intercept/intercept/kube/testing/kubeapi"
)

const host = "mesh-injector.mesh-injector.svc"

// isProgram is the variable by which the test is the program instead.
const isProgram = "MESH_TEST_IS_INJECTOR"

func TestMain(m *testing.M) {
	if os.Getenv(isProgram) != "" {
		os.Exit(run(context.Background(), os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// started is the program, as a pod runs it, beside an API server.
func started(b *testing.B) (client *http.Client, url string, process *os.Process) {
	b.Helper()
	api := kubeapi.New(b, kubeapi.Options{Objects: true})
	api.Apply("/api/v1/namespaces", map[string]any{"apiVersion": "v1", "kind": "Namespace",
		"metadata": map[string]any{"name": "demo", "labels": map[string]any{"intercept.mesh/inject": "enabled"}}})
	dir := b.TempDir()
	data, _, err := certs.NewMaker(host).Next(nil, time.Now())
	if err != nil {
		b.Fatal(err)
	}
	for _, key := range []string{certs.Cert, certs.Key} {
		if err := os.WriteFile(filepath.Join(dir, key), data[key], 0o600); err != nil {
			b.Fatal(err)
		}
	}
	webhook, health := free(b), free(b)
	cmd := exec.CommandContext(b.Context(), os.Args[0], "run", "--namespace", "mesh-injector", "--cert-dir", dir, "--listen", health,
		"--listen-webhook", webhook, "--kubeconfig", kubeconfig(b, api.URL, api.TokenFile, api.CAFile))
	cmd.Env = append(os.Environ(), isProgram+"=1", "GOMEMLIMIT=48MiB") // as in deploy/
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(time.Minute); ; <-time.After(50 * time.Millisecond) {
		r, err := http.Get("http://" + health + "/readyz")
		if err == nil {
			_ = r.Body.Close()
			if r.StatusCode == http.StatusOK {
				break
			}
		}
		if time.Now().After(deadline) {
			b.Fatalf("it is not ready: %v\n%s", err, log.String())
		}
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(data[certs.Bundle])
	client = &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: host}}}
	return client, "https://" + webhook + "/inject", cmd.Process
}

func free(b *testing.B) string {
	b.Helper()
	l, err := new(net.ListenConfig).Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// BenchmarkProgram asks the program for the sidecar of a pod, over TLS, as API servers do:
// eight requests at once. It reports pods/s, the 99th percentile of the time that a request
// takes, and the program's memory afterwards. The client takes its share of the machine.
func BenchmarkProgram(b *testing.B) {
	client, url, process := started(b)
	object := `{"apiVersion":"v1","kind":"Pod","metadata":{"generateName":"web-","labels":{"app":"web"},"ownerReferences":[{` +
		`"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web-1","uid":"u","controller":true}]},"spec":{"containers":[` +
		`{"name":"web","image":"web:1","ports":[{"name":"http","containerPort":8080}],"env":[{"name":"A","value":"b"}],` +
		`"resources":{"limits":{"memory":"1Gi"}},"readinessProbe":{"httpGet":{"port":"http","path":"/ready"}},` +
		`"livenessProbe":{"httpGet":{"port":"http","path":"/live"}},"volumeMounts":[{"name":"data","mountPath":"/data"}]}],` +
		`"volumes":[{"name":"data","emptyDir":{}}]}}`
	body, err := json.Marshal(admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
		Request: &admissionv1.AdmissionRequest{UID: "1", Operation: admissionv1.Create, Namespace: "demo",
			Resource: metav1.GroupVersionResource{Version: "v1", Resource: "pods"},
			Object:   runtime.RawExtension{Raw: []byte(object)}}})
	if err != nil {
		b.Fatal(err)
	}
	var mu sync.Mutex
	var took []time.Duration
	b.SetParallelism(4)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		var own []time.Duration
		for pb.Next() {
			start := time.Now()
			r, err := client.Post(url, "application/json", bytes.NewReader(body))
			if err != nil {
				b.Error(err)
				return
			}
			text, err := io.ReadAll(r.Body)
			_ = r.Body.Close()
			own = append(own, time.Since(start))
			if err != nil || !bytes.Contains(text, []byte(`"patch":`)) {
				b.Errorf("%v: status %d: %.300s", err, r.StatusCode, text)
				return
			}
		}
		mu.Lock()
		took = append(took, own...)
		mu.Unlock()
	})
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(len(took))/b.Elapsed().Seconds(), "pods/s")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(memory(b, process.Pid), "MiB")
	b.ReportMetric(cpu(b, process.Pid)/float64(len(took))*1000, "cpu-ms/pod")
}

// memory is a process's resident memory, in MiB, at its largest.
func memory(b *testing.B, pid int) float64 {
	b.Helper()
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		b.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "VmHWM:")
	kb, err := strconv.Atoi(strings.Fields(after)[0])
	if err != nil {
		b.Fatal(err)
	}
	return float64(kb) / 1024
}

// cpu is how many seconds of a processor a process has had.
func cpu(b *testing.B, pid int) float64 {
	b.Helper()
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	if err1 != nil || err2 != nil {
		b.Fatal(err1, err2)
	}
	return float64(user+system) / 100 // USER_HZ
}
