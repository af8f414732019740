package conflist

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/google/go-cmp/cmp"
)

func ours() Entry {
	return Entry{
		Type: "mesh-cni",
		JSON: []byte(`{"type":"mesh-cni","capabilities":{"io.kubernetes.cri.pod-annotations":true},` +
			`"agentSocket":"/run/x"}`),
		Versions: []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"},
	}
}

// TestMain: told to by its environment, the program is an agent that is killed
// before its step of that number.
func TestMain(m *testing.M) {
	at, err := strconv.Atoi(os.Getenv("MESH_TEST_KILL_AT"))
	if err != nil {
		os.Exit(m.Run())
	}
	n := 0
	step := func(string) {
		if n++; n == at {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	if err := life(os.Args[1], step); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// life is all that an agent does to a node.
func life(root string, step func(string)) error {
	conf, bin := Dir{filepath.Join(root, "net.d"), step}, Dir{filepath.Join(root, "bin"), step}
	if _, err := bin.InstallBinary(filepath.Join(root, "source"), "mesh-cni"); err != nil {
		return err
	}
	if _, err := conf.Install(ours()); err != nil {
		return err
	}
	if os.Getenv("MESH_TEST_KEEP") != "" {
		return nil
	}
	if _, err := conf.Uninstall("mesh-cni"); err != nil {
		return err
	}
	return bin.RemoveBinary("mesh-cni", conf)
}

// node makes a node's directories, with a copy of test data.
func node(t *testing.T, name string) (root string, conf, bin Dir) {
	t.Helper()
	root = t.TempDir()
	conf, bin = Dir{Path: filepath.Join(root, "net.d")}, Dir{Path: filepath.Join(root, "bin")}
	if err := errors.Join(os.CopyFS(conf.Path, os.DirFS(filepath.Join("testdata", name))), os.Mkdir(bin.Path, 0o755),
		os.WriteFile(filepath.Join(root, "source"), []byte("a program"), 0o755)); err != nil {
		t.Fatal(err)
	}
	return root, conf, bin
}

// listing is a directory's files and their bytes.
func listing(t *testing.T, d Dir) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(d.Path)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(d.Path, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = string(b)
	}
	return all
}

// load reads a directory as containerd does (go-cni, loadFromConfDir).
func load(d Dir) (*libcni.NetworkConfigList, error) {
	files, err := libcni.ConfFiles(d.Path, []string{".conf", ".conflist", ".json"})
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("no network config found: %w", err)
	}
	slices.Sort(files)
	if strings.HasSuffix(files[0], ".conflist") {
		return libcni.ConfListFromFile(files[0])
	}
	one, err := libcni.ConfFromFile(files[0]) //nolint:staticcheck // runtimes call it
	if err != nil {
		return nil, err
	}
	return libcni.ConfListFromConf(one) //nolint:staticcheck // runtimes call it
}

func types(l *libcni.NetworkConfigList) (all []string) {
	for _, p := range l.Plugins {
		all = append(all, p.Network.Type)
	}
	return all
}

// TestNodes: the runtime finds the same network with our entry last, nobody
// else's bytes change, and after uninstall the directory is what it was.
func TestNodes(t *testing.T) {
	dirs, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		if dir.Name() == "fuzz" {
			continue
		}
		t.Run(dir.Name(), func(t *testing.T) {
			_, conf, _ := node(t, dir.Name())
			before := listing(t, conf)
			was, err := load(conf)
			if err != nil {
				t.Fatal(err)
			}
			res, err := conf.Install(ours())
			if err != nil {
				t.Fatal(err)
			}
			is, err := load(conf)
			if err != nil {
				t.Fatal(err)
			}
			if is.Name != was.Name || is.CNIVersion != was.CNIVersion ||
				!slices.Equal(types(is), append(types(was), "mesh-cni")) {
				t.Errorf("%s %s %v became %s %s %v", was.Name, was.CNIVersion, types(was), is.Name, is.CNIVersion, types(is))
			}
			for i, p := range was.Plugins {
				if !Equal(p.Bytes, is.Plugins[i].Bytes) {
					t.Errorf("plugin %d: %s became %s", i, p.Bytes, is.Plugins[i].Bytes)
				}
			}
			if last := is.Plugins[len(is.Plugins)-1].Bytes; !Equal(last, ours().JSON) {
				t.Errorf("our entry is %s", last)
			}
			original := before[res.Primary]
			text := listing(t, conf)[Primary(must(conf.Read()))]
			if !contains(text, original) {
				t.Errorf("other people's bytes changed:\n%s", text)
			}
			if again, err := conf.Install(ours()); err != nil || len(again.Steps) > 0 {
				t.Errorf("a second time: %+v, %v", again, err)
			}
			if _, err := conf.Uninstall("mesh-cni"); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, listing(t, conf)); diff != "" {
				t.Errorf("after uninstall (-was +is):\n%s", diff)
			}
		})
	}
}

// contains reports whether a text is there as a whole, or with one insertion.
func contains(text, original string) bool {
	if strings.Contains(text, strings.TrimSpace(original)) {
		return true
	}
	n := 0
	for n < len(original) && original[n] == text[n] {
		n++
	}
	return strings.HasSuffix(text, original[n:])
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestLayout: what a person sees in a file afterwards.
func TestLayout(t *testing.T) {
	e := ours()
	e.JSON = []byte(`{"type":"mesh-cni","a":[1]}`)
	for _, tt := range []struct{ in, want string }{
		{`{"cniVersion":"1.0.0","plugins":[{"type":"x"}]}`,
			`{"cniVersion":"1.0.0","plugins":[{"type":"x"},{"type":"mesh-cni","a":[1]}]}`},
		{"{\"cniVersion\":\"1.0.0\",\"plugins\": [\n\t{\n\t  \"type\":\"x\"\n\t}\n]}",
			"{\"cniVersion\":\"1.0.0\",\"plugins\": [\n\t{\n\t  \"type\":\"x\"\n\t},\n\t{\n\t  \"type\": " +
				"\"mesh-cni\",\n\t  \"a\": [\n\t    1\n\t  ]\n\t}\n]}"},
		{`{"cniVersion":"1.0.0","plugins":[{"type":"mesh-cni"}, {"type":"x"}]}`,
			`{"cniVersion":"1.0.0","plugins":[{"type":"x"},{"type":"mesh-cni","a":[1]}]}`},
		{`{"cniVersion":"1.0.0","plugins":[{"type":"mesh-cni"},{"type":"mesh-cni"},   {"type":"x"} ]}`,
			`{"cniVersion":"1.0.0","plugins":[{"type":"x"},{"type":"mesh-cni","a":[1]} ]}`},
		{`{"cniVersion":"1.0.0","plugins":[{"type":"x"},{"type":"mesh-cni","a":[2]},{"type":"y"}]}`,
			`{"cniVersion":"1.0.0","plugins":[{"type":"x"},{"type":"y"},{"type":"mesh-cni","a":[1]}]}`},
		{`{"plugins":[],"cniVersion":"1.0.0","plugins":[{"t":"]","type":"x"}]}`,
			`{"plugins":[],"cniVersion":"1.0.0","plugins":[{"t":"]","type":"x"},{"type":"mesh-cni","a":[1]}]}`},
		{`{"cniVersion":"1.0.0","plugins":[{"type":"x"},{ "a":[ 1 ], "type":"mesh-cni" }]}`,
			`{"cniVersion":"1.0.0","plugins":[{"type":"x"},{ "a":[ 1 ], "type":"mesh-cni" }]}`},
	} {
		got, err := Insert([]byte(tt.in), e)
		if err != nil || string(got) != tt.want {
			t.Errorf("%s\ngot  %s, %v\nwant %s", tt.in, got, err, tt.want)
		}
	}
}

// TestRefused: what cannot be used is left alone, and the error names the file
// and what is wrong with it.
func TestRefused(t *testing.T) {
	for _, tt := range []struct{ name, data, want string }{
		{"10-a.conflist", "", "10-a.conflist: not a CNI configuration: it is empty"},
		{"10-a.conflist", "garbage", "10-a.conflist: not a CNI configuration: no JSON: invalid character 'g'"},
		{"10-a.conflist", "\xef\xbb\xbf{}", "no JSON"},
		{"10-a.conflist", "[]", "[] is no JSON object"},
		{"10-a.conflist", `{"type":"x"}`, `no list "plugins"`},
		{"10-a.conflist", `{"plugins":{}}`, `no list "plugins"`},
		{"10-a.conflist", `{"plugins":[]}`, "is empty"},
		{"10-a.conflist", `{"plugins":[1]}`, "plugins[0], 1, is no object"},
		{"10-a.conflist", `{"cniVersion":"1.0.0","plugins":[{"type":"mesh-cni"}]}`, "mesh-cni is its only plugin"},
		{"10-a.conflist", `{"plugins":[{"type":"x"}]}`,
			"names no cniVersion, which means 0.1.0, and mesh-cni speaks 0.3.0, "},
		{"10-a.conflist", `{"cniVersion":"0.2.0","plugins":[{"type":"x"}]}`, "is of cniVersion 0.2.0, and mesh-cni speaks"},
		{"10-a.conf", `{"cniVersion":"0.2.0","type":"x"}`, "is of cniVersion 0.2.0"},
		{"10-a.conf", `{"cniVersion":"1.0.0","plugins":[]}`,
			`no "type"; a list belongs into a file whose name ends in .conflist`},
		{"10-a.json", "", "10-a.json: not a CNI configuration: it is empty"},
	} {
		conf := Dir{Path: t.TempDir()}
		path := filepath.Join(conf.Path, tt.name)
		if err := os.WriteFile(path, []byte(tt.data), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := conf.Install(ours())
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), conf.Path) {
			t.Errorf("%s %q: %v; want %s", tt.name, tt.data, err, tt.want)
		}
		if got := listing(t, conf); !cmp.Equal(got, map[string]string{tt.name: tt.data}) {
			t.Errorf("it was touched: %v", got)
		}
	}
	conf := Dir{Path: t.TempDir()}
	if _, err := conf.Install(ours()); !errors.Is(err, ErrNoNetwork) {
		t.Errorf("an empty directory: %v", err)
	}
	if err := syscall.Mkfifo(filepath.Join(conf.Path, "00.conf"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := conf.Install(ours()); err == nil ||
		!strings.Contains(err.Error(), "00.conf: not a CNI configuration: it is no regular file") {
		t.Errorf("a fifo: %v", err)
	}
}

// TestKilled: an agent that is killed before any step of its life leaves a
// configuration with which pods start, and another one finishes the work.
func TestKilled(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"calico", "conf", "json"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for at := 1; ; at++ {
				root, conf, bin := node(t, name)
				before := listing(t, conf)
				was := must(load(conf))
				child := exec.Command(self, root)
				child.Env = append(os.Environ(), "MESH_TEST_KILL_AT="+strconv.Itoa(at))
				out, err := child.CombinedOutput()
				if err == nil {
					if at < 20 {
						t.Errorf("it took %d steps", at)
					}
					t.Logf("killed at %d steps", at-1)
					return
				}
				if child.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
					t.Fatalf("%v\n%s", err, out)
				}
				is, err := load(conf)
				if err != nil {
					t.Fatalf("killed at step %d: no pod can start: %v", at, err)
				}
				_, missing := os.Stat(filepath.Join(bin.Path, "mesh-cni"))
				switch got := types(is); {
				case is.Name != was.Name, !slices.Equal(got, types(was)) && !slices.Equal(got, append(types(was), "mesh-cni")):
					t.Fatalf("killed at step %d: the network is %s of %v", at, is.Name, got)
				case slices.Contains(got, "mesh-cni") && missing != nil:
					t.Fatalf("killed at step %d: our entry without our binary: every pod fails", at)
				}
				// The next agent installs, and removes.
				if err := life(root, nil); err != nil {
					t.Fatalf("after the kill at step %d: %v", at, err)
				}
				if diff := cmp.Diff(before, listing(t, conf)); diff != "" {
					t.Fatalf("after the kill at step %d (-was +is):\n%s", at, diff)
				}
				if left := listing(t, bin); len(left) > 0 {
					t.Fatalf("after the kill at step %d: left in bin: %v", at, left)
				}
			}
		})
	}
}

// TestTogether: agents at once do the work of one.
func TestTogether(t *testing.T) {
	for _, name := range []string{"calico", "conf"} {
		root, conf, _ := node(t, name)
		want, wantConf, _ := node(t, name)
		t.Setenv("MESH_TEST_KEEP", "1")
		if err := life(want, nil); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				if err := life(root, nil); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if diff := cmp.Diff(listing(t, wantConf), listing(t, conf)); diff != "" {
			t.Errorf("%s (-one +many):\n%s", name, diff)
		}
	}
}

// TestOtherWriter: a file that another writer changes at the last moment is
// not overwritten with what was made from the one before.
func TestOtherWriter(t *testing.T) {
	_, conf, _ := node(t, "calico")
	path := filepath.Join(conf.Path, "10-calico.conflist")
	theirs := []byte(`{"cniVersion":"1.0.0","name":"new","plugins":[{"type":"calico"}]}`)
	conf.step = func(step string) {
		if step == "synced" {
			if err := os.WriteFile(path, theirs, 0o600); err != nil {
				t.Error(err)
			}
		}
	}
	if _, err := conf.Install(ours()); !errors.Is(err, ErrChanged) {
		t.Errorf("the error is %v", err)
	}
	if got := listing(t, conf); got["10-calico.conflist"] != string(theirs) || len(got) != 2 {
		t.Errorf("it became %v", got)
	}
	conf.step = nil
	if _, err := conf.Install(ours()); err != nil {
		t.Error(err)
	}
}

// TestConvertedComesBack: the owner of a file that was put aside writes it anew.
func TestConvertedComesBack(t *testing.T) {
	_, conf, _ := node(t, "json")
	path := filepath.Join(conf.Path, "87-net.json")
	if _, err := conf.Install(ours()); err != nil {
		t.Fatal(err)
	}
	renewed := `{"name":"podman","cniVersion":"0.4.0","type":"ipvlan"}`
	for _, install := range []bool{true, false} {
		if err := os.WriteFile(path, []byte(renewed), 0o600); err != nil {
			t.Fatal(err)
		}
		if install {
			if _, err := conf.Install(ours()); err != nil {
				t.Fatal(err)
			}
			if got := types(must(load(conf))); !slices.Equal(got, []string{"ipvlan", "mesh-cni"}) {
				t.Errorf("the network is of %v", got)
			}
		}
	}
	if _, err := conf.Uninstall("mesh-cni"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"87-net.json": renewed}, listing(t, conf)); diff != "" {
		t.Error(diff)
	}
}

// TestFileStaysItself: owner, mode and links.
func TestFileStaysItself(t *testing.T) {
	_, conf, _ := node(t, "calico")
	path, elsewhere := filepath.Join(conf.Path, "10-calico.conflist"), filepath.Join(t.TempDir(), "real")
	if err := errors.Join(os.Rename(path, elsewhere), os.Symlink(elsewhere, path),
		os.Chmod(elsewhere, 0o640)); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		if err := os.Chown(elsewhere, 12, 34); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := conf.Install(ours()); err != nil {
		t.Fatal(err)
	}
	info := must(os.Stat(elsewhere))
	if stat := info.Sys().(*syscall.Stat_t); info.Mode() != 0o640 || os.Getuid() == 0 &&
		(stat.Uid != 12 || stat.Gid != 34) {
		t.Errorf("%v, %d:%d", info.Mode(), stat.Uid, stat.Gid)
	}
	if got := types(must(load(conf))); !isLink(path) || !slices.Contains(got, "mesh-cni") {
		t.Errorf("a link: %v, of %v", isLink(path), got)
	}
}

// TestBinary: it is replaced while it may be running, mended, and stays as
// long as a list names it.
func TestBinary(t *testing.T) {
	root, conf, bin := node(t, "calico")
	source, path := filepath.Join(root, "source"), filepath.Join(bin.Path, "mesh-cni")
	for i, spoil := range []func() error{
		func() error { return nil },
		func() error { return os.Truncate(path, 1) },
		func() error { return os.Chmod(path, 0o600) },
		func() error { return os.Remove(path) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if changed, err := bin.InstallBinary(source, "mesh-cni"); err != nil || !changed {
			t.Errorf("%d: changed %v, %v", i, changed, err)
		}
		if changed, err := bin.InstallBinary(source, "mesh-cni"); err != nil || changed {
			t.Errorf("%d: again: changed %v, %v", i, changed, err)
		}
		if info := must(os.Stat(path)); info.Mode() != 0o755 {
			t.Errorf("%d: mode %v", i, info.Mode())
		}
	}
	if _, err := conf.Install(ours()); err != nil {
		t.Fatal(err)
	}
	if err := bin.RemoveBinary("mesh-cni", conf); err == nil ||
		!strings.Contains(err.Error(), "still in 10-calico.conflist") {
		t.Errorf("removed under a list that names it: %v", err)
	}
	if _, err := conf.Uninstall("mesh-cni"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := bin.RemoveBinary("mesh-cni", conf); err != nil {
			t.Error(err)
		}
	}
	if err := bin.RemoveBinary("mesh-cni", Dir{Path: filepath.Join(root, "gone")}); err != nil {
		t.Error(err)
	}
}

// TestUninstallBroken: a broken file keeps nobody from the others.
func TestUninstallBroken(t *testing.T) {
	_, conf, _ := node(t, "calico")
	if _, err := conf.Install(ours()); err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(conf.Path, "20-broken.conflist")
	if err := os.WriteFile(broken, []byte(`{"plugins":[{"type":"mesh-cni"`), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := conf.Uninstall("mesh-cni")
	if err == nil || !strings.Contains(err.Error(), "20-broken.conflist") || !strings.Contains(err.Error(), "by hand") {
		t.Errorf("the error is %v", err)
	}
	if got := types(must(load(conf))); slices.Contains(got, "mesh-cni") {
		t.Errorf("left in %v", got)
	}
}

// FuzzInsert: inserting keeps all other bytes, is done once, and removing gives
// the original back; whatever is refused is refused without a panic.
func FuzzInsert(f *testing.F) {
	all, err := filepath.Glob("testdata/*/*.conf*")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range all {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"plugins":[{"type":"mesh-cni"},{"\u0074ype":"mesh-cni"},{"type":"x"},{"type":"mesh-cni"}],` +
		`"cniVersion":"1.0.0"}`))
	e := ours()
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = Wrap(data)
		with, err := Insert(data, e)
		if err != nil {
			return
		}
		if !json.Valid(with) {
			t.Fatalf("%q became %q", data, with)
		}
		again, err := Insert(with, e)
		if err != nil || !bytes.Equal(again, with) {
			t.Fatalf("a second time: %q, %v", again, err)
		}
		foreign, err := Remove(data, e.Type)
		if err != nil {
			t.Fatal(err)
		}
		without, err := Remove(with, e.Type)
		if err != nil || !bytes.Equal(without, foreign) {
			t.Fatalf("without it: %q, %v; want %q", without, err, foreign)
		}
		had, _ := parseList(data)
		if len(had.ours(e.Type)) == 0 && !bytes.Equal(without, data) {
			t.Fatalf("%q became %q", data, without)
		}
		has, _ := parseList(with)
		i := 0
		for j, p := range had.plugins {
			if slices.Contains(had.ours(e.Type), j) {
				continue
			}
			if !bytes.Equal(p.of(data), has.plugins[i].of(with)) {
				t.Fatalf("plugin %d: %q became %q", j, p.of(data), has.plugins[i].of(with))
			}
			i++
		}
		if i != len(has.plugins)-1 {
			t.Fatalf("%d others, and %d in all", i, len(has.plugins))
		}
	})
}

// TestSameFailure: what cannot be written fails each time with the same words,
// so that it is logged once, and leaves nothing.
func TestSameFailure(t *testing.T) {
	root, _, bin := node(t, "calico")
	if err := os.MkdirAll(filepath.Join(bin.Path, "mesh-cni", "in-the-way"), 0o755); err != nil {
		t.Fatal(err)
	}
	before := must(os.ReadDir(bin.Path))
	said := map[string]bool{}
	for range 3 {
		_, err := bin.InstallBinary(filepath.Join(root, "source"), "mesh-cni")
		if err == nil || strings.Contains(err.Error(), ".tmp") {
			t.Fatalf("installed over a directory: %v", err)
		}
		said[err.Error()] = true
	}
	if len(said) != 1 {
		t.Errorf("%v", said)
	}
	if after := must(os.ReadDir(bin.Path)); len(after) != len(before) {
		t.Errorf("left behind: %v", after)
	}
}
