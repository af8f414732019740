package cri

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// message is a StatusResponse with a map of texts.
func message(info map[string]string) []byte {
	text := func(b []byte, number protowire.Number, s string) []byte {
		return protowire.AppendString(protowire.AppendTag(b, number, protowire.BytesType), s)
	}
	b := text(nil, 1, "\x0a\x00") // the status itself
	for k, v := range info {
		b = text(b, 2, string(text(text(nil, 1, k), 2, v)))
	}
	return b
}

// runtime answers as a container runtime does.
func runtime(t *testing.T, socket string, status int, answer []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(socket), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	s := &http.Server{Protocols: protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked, err := io.ReadAll(r.Body)
		if err != nil || r.URL.Path != "/runtime.v1.RuntimeService/Status" ||
			string(asked) != "\x00\x00\x00\x00\x02\x08\x01" {
			t.Errorf("%s was asked %q, %v", r.URL.Path, asked, err)
		}
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status, Grpc-Message")
		_, _ = w.Write(append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(answer))), answer...))
		w.Header().Set("Grpc-Status", fmt.Sprint(status))
		w.Header().Set("Grpc-Message", "not%20here")
	})}
	go func() { _ = s.Serve(l) }() // until it is closed
	t.Cleanup(func() { _ = s.Close() })
}

// containerd is what containerd 1.6 and 2 say, as far as it matters.
func containerd(conf string, bin ...string) []byte {
	return message(map[string]string{"golang": `"go1.26"`, "cniconfig": fmt.Sprintf(
		`{"PluginDirs":["%s"],"PluginConfDir":%q,"PluginMaxConfNum":1,"Prefix":"eth","Networks":[]}`,
		strings.Join(bin, `","`), conf)})
}

func TestAsk(t *testing.T) {
	dir := t.TempDir()
	for name, tt := range map[string]struct {
		status int
		answer []byte
		want   string
	}{
		"containerd":   {0, containerd("/etc/cni/net.d", "/opt/cni/bin", "/usr/libexec/cni"), ""},
		"CRI-O":        {0, message(map[string]string{"config": "x"}), "does not say"},
		"an empty map": {0, message(nil), "does not say"}, "garbage": {0, []byte("\xff\xff\xff"), "does not say"},
		"no JSON": {0, message(map[string]string{"cniconfig": "x"}), "does not say"},
		"nothing": {0, message(map[string]string{"cniconfig": "{}"}), "does not say"},
		"no CRI":  {12, nil, "status 12: not here"},
	} {
		socket := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
		runtime(t, socket, tt.status, tt.answer)
		got, err := Ask(t.Context(), socket)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %+v, %v; want %q", name, got, err, tt.want)
		}
		if err == nil && (got.ConfDir != "/etc/cni/net.d" || !slices.Equal(got.PluginDirs, []string{"/opt/cni/bin",
			"/usr/libexec/cni"})) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if _, err := Ask(t.Context(), filepath.Join(dir, "nobody")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nobody listens: %v", err)
	}
}

// TestCompare: directories are told by what they are, not by what they are called,
// with the links of the node.
func TestCompare(t *testing.T) {
	root := t.TempDir()
	in := func(path string) string { return filepath.Join(root, path) }
	for _, err := range []error{
		os.MkdirAll(in("etc/cni/net.d"), 0o700), os.MkdirAll(in("opt/cni/bin"), 0o700),
		os.MkdirAll(in("usr/libexec/cni"), 0o700),
		os.MkdirAll(in("run"), 0o700), os.MkdirAll(in("var/k3s/net.d"), 0o700), os.Symlink("/etc/cni", in("link")),
		os.Symlink("/run", in("var/run")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	const conf, bin = "etc/cni/net.d", "opt/cni/bin"
	for name, tt := range map[string]struct {
		answer    []byte // nil: nobody listens
		conf, bin string
		elsewhere int
		want      []string
	}{
		"the same":       {containerd("/etc/cni/net.d", "/opt/cni/bin"), conf, bin, 1, nil},
		"by a link":      {containerd("/link/net.d", "/opt/cni/bin"), conf, bin, 1, nil},
		"two of plugins": {containerd("/etc/cni/net.d", "/usr/libexec/cni", "/opt/cni/bin"), conf, bin, 2, nil},
		"other lists": {containerd("/var/k3s/net.d", "/opt/cni/bin"), conf, bin, 0,
			[]string{"/var/k3s/net.d", "--cni-conf-dir"}},
		"lists nowhere": {containerd("/gone", "/opt/cni/bin"), conf, bin, 0, []string{"/gone", "--cni-conf-dir"}},
		"other plugins": {containerd("/etc/cni/net.d", "/usr/libexec/cni", "/y"), conf, bin, 0,
			[]string{"/usr/libexec/cni, /y", "--cni-bin-dir"}},
		"plugins of mine": {containerd("/etc/cni/net.d", "/opt/cni/bin"), conf, "usr/libexec/cni", 0,
			[]string{"--cni-bin-dir"}},
		"does not say": {message(nil), conf, "usr/libexec/cni", 0, nil},
		"nobody":       {nil, "var/k3s/net.d", "usr/libexec/cni", 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.answer != nil {
				runtime(t, in("run/c.sock"), 0, tt.answer)
			}
			elsewhere, err := Node{Root: root, Socket: "/var/run/c.sock"}.Compare(t.Context(), in(tt.conf), in(tt.bin))
			if (err == nil) != (tt.want == nil) || len(elsewhere) != tt.elsewhere {
				t.Fatalf("%q, %v", elsewhere, err)
			}
			for _, word := range tt.want {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("%v lacks %q", err, word)
				}
			}
		})
	}
	if elsewhere, err := (Node{Root: in("nowhere")}).Compare(context.Background(), in(conf), in(bin)); err != nil ||
		elsewhere != nil {
		t.Errorf("no root: %q, %v", elsewhere, err)
	}
}
