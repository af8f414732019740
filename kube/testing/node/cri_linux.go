package node

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// CRI speaks as much of the container runtime interface as a test needs
// (k8s.io/cri-api, runtime.v1): gRPC is HTTP/2, and the messages are written
// and read by the numbers of their fields. The module and gRPC's would be
// dozens of others.
type CRI struct {
	client *http.Client
	cgroup string
}

func newCRI(socket, cgroup string) CRI {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return CRI{cgroup: cgroup, client: &http.Client{Transport: &http.Transport{
		Protocols: protocols,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}}
}

// call calls a method of a service, such as RuntimeService/Status.
func (c CRI) call(ctx context.Context, method string, m message) (fields, error) {
	frame := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(m))), m...)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://cri/runtime.v1."+method, bytes.NewReader(frame))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("TE", "trailers")
	resp, err := c.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	status, text := resp.Trailer.Get("Grpc-Status"), resp.Trailer.Get("Grpc-Message")
	if status == "" {
		status, text = resp.Header.Get("Grpc-Status"), resp.Header.Get("Grpc-Message")
	}
	if status != "0" {
		if plain, err := url.PathUnescape(text); err == nil {
			text = plain
		}
		return nil, fmt.Errorf("%s: status %s: %s", method, status, text)
	}
	if len(body) < 5 || int(binary.BigEndian.Uint32(body[1:])) != len(body)-5 {
		return nil, fmt.Errorf("%s: an answer of %d bytes", method, len(body))
	}
	return parse(body[5:])
}

// message is a Protocol Buffers message in the making.
type message []byte

func (m message) tag(number, kind int) message {
	return binary.AppendUvarint(m, uint64(number<<3|kind))
}

func (m message) text(number int, s string) message {
	if s == "" {
		return m
	}
	return append(binary.AppendUvarint(m.tag(number, 2), uint64(len(s))), s...)
}

func (m message) sub(number int, s message) message {
	return append(binary.AppendUvarint(m.tag(number, 2), uint64(len(s))), s...)
}

func (m message) number(number int, n uint64) message {
	return binary.AppendUvarint(m.tag(number, 0), n)
}

func (m message) pairs(number int, pairs map[string]string) message {
	for k, v := range pairs {
		m = m.sub(number, message{}.text(1, k).text(2, v))
	}
	return m
}

// fields are those of a message that has been read: bytes and numbers.
type fields map[int][]any

func parse(b []byte) (fields, error) {
	f := fields{}
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, errors.New("a bad tag")
		}
		b = b[n:]
		value, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, errors.New("a bad number")
		}
		b = b[n:]
		number := int(tag >> 3)
		switch tag & 7 {
		case 0:
			f[number] = append(f[number], value)
		case 2:
			if value > uint64(len(b)) {
				return nil, errors.New("a field that is cut off")
			}
			f[number] = append(f[number], string(b[:value]))
			b = b[value:]
		default:
			return nil, fmt.Errorf("a field of kind %d", tag&7)
		}
	}
	return f, nil
}

func (f fields) text(number int) string {
	if len(f[number]) == 0 {
		return ""
	}
	s, _ := f[number][0].(string)
	return s
}

func (f fields) number(number int) uint64 {
	if len(f[number]) == 0 {
		return 0
	}
	n, _ := f[number][0].(uint64)
	return n
}

func (f fields) sub(number int) fields {
	s, err := parse([]byte(f.text(number)))
	if err != nil {
		return nil
	}
	return s
}

// Sandbox is a pod as kubelet asks for it.
type Sandbox struct {
	Namespace, Name, UID string
	Annotations          map[string]string
	// Handler is the runtime's name in containerd's configuration. Empty: its default.
	Handler string
	// ID is what the runtime calls it, once it runs.
	ID string
}

func (c CRI) config(s Sandbox) message {
	return message{}.
		sub(1, message{}.text(1, s.Name).text(2, s.UID).text(3, s.Namespace)).
		sub(4, message{}.text(1, nameserver)).
		pairs(7, s.Annotations).
		sub(8, message{}.text(1, c.cgroup))
}

// Run starts a pod, and sets its ID.
func (c CRI) Run(ctx context.Context, s *Sandbox) error {
	f, err := c.call(ctx, "RuntimeService/RunPodSandbox", message{}.sub(1, c.config(*s)).text(2, s.Handler))
	s.ID = f.text(1)
	return err
}

// Stop ends a pod.
func (c CRI) Stop(ctx context.Context, id string) error {
	_, err := c.call(ctx, "RuntimeService/StopPodSandbox", message{}.text(1, id))
	return err
}

// Remove forgets a pod that has ended.
func (c CRI) Remove(ctx context.Context, id string) error {
	_, err := c.call(ctx, "RuntimeService/RemovePodSandbox", message{}.text(1, id))
	return err
}

// Address is the pod's.
func (c CRI) Address(ctx context.Context, id string) (string, error) {
	f, err := c.call(ctx, "RuntimeService/PodSandboxStatus", message{}.text(1, id))
	return f.sub(1).sub(5).text(1), err
}

// Sandboxes lists the pods there are.
func (c CRI) Sandboxes(ctx context.Context) (ids []string, err error) {
	f, err := c.call(ctx, "RuntimeService/ListPodSandbox", nil)
	for _, item := range f[1] {
		p, err := parse([]byte(item.(string)))
		if err != nil {
			return nil, err
		}
		ids = append(ids, p.text(1))
	}
	return ids, err
}

// NetworkReady is what the runtime says about its network, and why.
func (c CRI) NetworkReady(ctx context.Context) (ready bool, why string, err error) {
	f, err := c.call(ctx, "RuntimeService/Status", nil)
	for _, item := range f.sub(1)[1] {
		if condition, err := parse([]byte(item.(string))); err == nil && condition.text(1) == "NetworkReady" {
			return condition.number(2) == 1, condition.text(4), nil
		}
	}
	return false, "", err
}

// Start starts a container that runs part as a user and its group of the same
// number.
func (c CRI) Start(ctx context.Context, s Sandbox, name string, user uint64, args ...string) (id string, err error) {
	config := message{}.sub(1, message{}.text(1, name)).sub(2, message{}.text(1, Image))
	for _, a := range append([]string{"/part"}, args...) {
		config = config.text(3, a)
	}
	who := message{}.number(1, user)
	config = config.sub(15, message{}.sub(2, message{}.sub(5, who).sub(12, who)))
	f, err := c.call(ctx, "RuntimeService/CreateContainer", message{}.text(1, s.ID).sub(2, config).sub(3, c.config(s)))
	if err != nil {
		return "", err
	}
	id = f.text(1)
	_, err = c.call(ctx, "RuntimeService/StartContainer", message{}.text(1, id))
	return id, err
}

// Init is an init container that is not root unless Root says so: as user and group 65534, which can get no privileges that
// its capabilities do not hold.
type Init struct {
	// Name is one that no other container of the pod has.
	Name, Image string
	// Command is the program, if it is not the image's own, and its arguments.
	Command, Args []string
	Capabilities  []string
	Root          bool
}

// Complete runs an init container to its end and returns its exit code.
func (c CRI) Complete(ctx context.Context, s Sandbox, i Init) (code int32, err error) {
	config := message{}.sub(1, message{}.text(1, i.Name)).sub(2, message{}.text(1, i.Image))
	for _, a := range i.Command {
		config = config.text(3, a)
	}
	for _, a := range i.Args {
		config = config.text(4, a)
	}
	user := uint64(65534)
	if i.Root {
		user = 0
	}
	who, capabilities := message{}.number(1, user), message{}
	for _, name := range i.Capabilities {
		capabilities = capabilities.text(1, name)
	}
	security := message{}.sub(1, capabilities).sub(5, who).number(7, 1).number(11, 1).sub(12, who)
	config = config.sub(15, message{}.sub(2, security))
	f, err := c.call(ctx, "RuntimeService/CreateContainer", message{}.text(1, s.ID).sub(2, config).sub(3, c.config(s)))
	if err != nil {
		return 0, err
	}
	id := message{}.text(1, f.text(1))
	if _, err := c.call(ctx, "RuntimeService/StartContainer", id); err != nil {
		return 0, err
	}
	const exited = 2 // CONTAINER_EXITED
	for {
		f, err := c.call(ctx, "RuntimeService/ContainerStatus", id)
		if err != nil {
			return 0, err
		}
		if status := f.sub(1); status.number(3) == exited {
			return int32(status.number(7)), nil
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Exec runs part in a container and returns what it prints.
func (c CRI) Exec(ctx context.Context, container string, args ...string) (string, error) {
	m := message{}.text(1, container)
	for _, a := range append([]string{"/part"}, args...) {
		m = m.text(2, a)
	}
	f, err := c.call(ctx, "RuntimeService/ExecSync", m.number(3, 20))
	if code := f.number(3); err == nil && code != 0 {
		err = fmt.Errorf("exit code %d: %s", int32(code), f.text(2))
	}
	return strings.TrimSpace(f.text(1)), err
}
