package cniwire

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

// recorded is a call of the plugin as its first version made it, with the answer that the agent of that version gave.
type recorded struct{ Name, Request, Answer string }

// TestRecorded: plugin and agent of other versions are understood, for they say what they have always said: each word of
// testdata/recorded.jsonl was written by the first version, at commit ba31d15. Whoever changes what is said there needs
// another [Version]; to say more is no change.
func TestRecorded(t *testing.T) {
	pod := Pod{Namespace: "shop", Name: "web-0", UID: "6b1e-4f", ContainerID: "4711abcd"}
	known := Facts{Found: true, Annotations: map[string]string{"intercept.mesh/enabled": "true", "a": "<&>"},
		RuntimeClass: "gvisor", HostNetwork: true, InitContainer: true}
	const record = `{"time":"2026-11-29T12:00:00Z","level":"INFO","msg":"intercepted","command":"ADD",` +
		`"result":"intercepted","seconds":0.25,"podNamespace":"shop","podName":"web-0","containerID":"4711abcd",` +
		`"netns":"/run/netns/x","backend":"nft","outcome":"created"}`
	calls := map[string]struct {
		facts Facts // of the agent
		ready error
		call  func(ctx context.Context, socket string) (Facts, error)
	}{
		"pod":         {known, nil, func(ctx context.Context, s string) (Facts, error) { return Ask(ctx, s, pod) }},
		"pod at once": {Facts{Found: true}, nil, func(ctx context.Context, s string) (Facts, error) { return AskNow(ctx, s, pod) }},
		"unknown pod": {Facts{}, nil, func(ctx context.Context, s string) (Facts, error) {
			return AskNow(ctx, s, Pod{Namespace: "a", Name: "b"})
		}},
		"not ready": {Facts{}, errors.New("the pods of this node have not been listed yet"),
			func(ctx context.Context, s string) (Facts, error) { return AskNow(ctx, s, pod) }},
		"ping": {Facts{}, nil, func(ctx context.Context, s string) (Facts, error) { return Facts{}, Ping(ctx, s) }},
		"log":  {Facts{}, nil, func(_ context.Context, s string) (Facts, error) { return Facts{}, Send(s, []byte(record)) }},
	}
	text, err := os.ReadFile("testdata/recorded.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	said := 0
	for line := range strings.Lines(string(text)) {
		var was recorded
		if err := json.Unmarshal([]byte(line), &was); err != nil {
			t.Fatal(err)
		}
		said++
		t.Run(was.Name, func(t *testing.T) {
			c, known := calls[was.Name]
			if !known {
				t.Fatal("there is no such call")
			}
			// An agent of that version, and today's plugin.
			socket, request := asThen(t, was.Answer)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			facts, err := c.call(ctx, socket)
			if errors.Is(err, ErrRefused) != (c.ready != nil) || c.ready == nil && err != nil || !reflect.DeepEqual(facts, c.facts) {
				t.Errorf("%+v, %v", facts, err)
			}
			wait := regexp.MustCompile(`"wait":[0-9]+`)
			if got := wait.ReplaceAllString(<-request, `"wait":WAIT`); got != was.Request {
				t.Errorf("the plugin says\n%s, and said\n%s", got, was.Request)
			}
			// A plugin of that version, and today's agent.
			logged := make(chan string, 1)
			agent := Server{Ready: func() error { return c.ready },
				Pod: func(context.Context, Pod) (Facts, error) { return c.facts, nil },
				Log: func(_ Record, raw json.RawMessage) { logged <- string(raw) }}
			answer := sayTo(t, agent, strings.ReplaceAll(was.Request, "WAIT", "100"))
			if answer != was.Answer {
				t.Errorf("the agent answers\n%s, and answered\n%s", answer, was.Answer)
			}
			if was.Name == "log" && <-logged != record {
				t.Error("another record")
			}
			// One that says more, of a later version, is understood as well.
			more := strings.Replace(was.Request, `{"version":1`, `{"version":1,"later":{"a":[1]}`, 1)
			if answer := sayTo(t, agent, strings.ReplaceAll(more, "WAIT", "100")); answer != was.Answer {
				t.Errorf("of a request that says more: %s", answer)
			}
		})
	}
	if said != len(calls) {
		t.Errorf("%d calls were recorded, of %d", said, len(calls))
	}
}

// asThen answers one call as an agent has once answered, and hands on the request.
func asThen(t *testing.T, answer string) (socket string, request <-chan string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	got := make(chan string, 1)
	go func() {
		defer close(got)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		text, _ := bufio.NewReader(conn).ReadString('\n')
		_, _ = conn.Write([]byte(answer))
		got <- text
	}()
	return socket, got
}

// sayTo says something to an agent, and returns its answer.
func sayTo(t *testing.T, agent Server, request string) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "socket")
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- agent.Serve(ctx, l) }()
	defer func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte(request)); err != nil {
		t.Fatal(err)
	}
	answer, _ := bufio.NewReader(conn).ReadString('\n') // of a record there is none
	return answer
}
