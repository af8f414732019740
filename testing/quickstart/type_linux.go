package quickstart

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/mesh-intercept/intercept/testing/netlab"
	"github.com/mesh-intercept/intercept/testing/program"
)

// Typing is how the commands of a page are typed. The zero Typing is in a directory that has the files of the page and
// nothing else.
type Typing struct {
	// Folder is a directory whose files are there, too, those in directories as well. In it the commands are typed in At.
	Folder, At string
	// InClone has the commands typed in the Folder where it is, in the repository, as those of Go need it. The files are
	// copies all the same. Else they are typed in a folder that every user can read, as those of the proxy's user need it.
	InClone bool
	// Listening are ports in the namespace pod that are waited for after a command, by how the command begins.
	Listening map[string][]int
	// Programs are files of programs that the page runs, besides mesh-init and those of Debian's packages.
	Programs []string
	// Section is the heading of the second level whose commands are typed. "": those of the whole page.
	Section string
	// Before is what another page shows: its files are there, and its commands have been typed.
	Before Page
	// Cleans is whether the page takes everything away in the end: files, processes and namespaces.
	Cleans bool
}

// The programs that pages run.
var programs = []string{"haproxy", "dnsmasq", "openssl", "nft", "ip", "setpriv", "curl", "mount"}

// mark stands in the output before the number of each command.
const mark = "=== command"

// prelude makes what whoever types takes for granted. $1 is the directory with all files; it is copied, for the
// proxy's user may not enter it. $2 is where to type in it. $3 is the directory in whose place that with the page's
// files is, or "". /etc is a copy, into which a page may write. The machine's name server is none that the pod reaches.
const prelude = `
	mount -t proc proc /proc && mount -t tmpfs tmpfs /run && mount -t tmpfs -o mode=755 tmpfs /mnt &&
	cp -r "$1"/* /mnt && chmod -R a+rX /mnt && ip link set lo up &&
	if [[ $3 ]]; then mount --bind /mnt/page "$3" && cd "$3/$2"; else cd "/mnt/page/$2"; fi &&
	cp -a /etc /mnt/etc && mount --bind /mnt/etc /etc && rm -f /etc/resolv.conf && rm -rf /etc/netns &&
	echo nameserver 192.0.2.53 > /etc/resolv.conf || exit
	PATH=/mnt/bin:$PATH
	find . | sort > /run/before
	patience=60
	[[ -z $MESH_TEST_UPDATE ]] || patience=5 # what is waited for may be what changes
	await() {
		local end=$((SECONDS + patience))
		while ((SECONDS < end)); do
			"$@" && return
			sleep 0.01
		done
		[[ $MESH_TEST_UPDATE ]] || echo "in vain: $*"
	}
	listens() { [[ $(ip netns exec pod cat /proc/net/tcp) == *:$1\ 00000000:0000\ 0A* ]]; }
	gone() { [[ -z $(ip netns pids pod) ]]; }
	shows() { [[ $(eval "$2" | wc -l) == "$1" ]]; } # so many lines
	alone() { for exe in /proc/[0-9]*/exe; do [[ $exe == /proc/$$/exe || ! -e $exe ]] || return; done; }
`

// left says what a page that cleans up has left.
const left = `
	await alone
	for exe in /proc/[0-9]*/exe; do
		[[ $exe == /proc/$$/exe || ! -e $exe ]] || echo "left running: $(tr '\0' ' ' < "${exe%exe}cmdline")"
	done
	find . | sort | diff /run/before - | sed -n 's/^[<>]/left, or gone:/p'
	ip netns list | sed 's/^/left, the namespace /'
	find /etc/netns -mindepth 1 2> /dev/null | sed 's/^/left: /'
`

var meshInit = sync.OnceValues(func() (text []byte, err error) {
	dir, err := os.MkdirTemp("", "quickstart")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "mesh-init")
	if err := program.Build(path, "cmd/mesh-init"); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
})

// Type types the commands of a page as root in bash, and compares what they print with what the page shows. With
// MESH_TEST_UPDATE=1 it writes that into the page instead.
//
// The namespaces that the page makes are in a mount namespace of the test's own, and the programs in a PID namespace:
// nothing is left behind. The page's own network namespace is none of those: it has lo and nothing else.
func Type(t testing.TB, path string, how Typing) {
	t.Helper()
	netlab.Require(t)
	for _, name := range programs {
		netlab.RequireProgram(t, name)
	}
	dir, err := filepath.Abs(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	page := Read(t, path)
	if how.Section != "" {
		page = page.Under(t, how.Section)
	}
	if err := page.lay(dir, how); err != nil {
		t.Fatal(err)
	}
	inPlaceOf := ""
	if how.InClone {
		if inPlaceOf, err = filepath.Abs(how.Folder); err != nil {
			t.Fatal(err)
		}
	}

	cmd := exec.Command("bash", "-c", page.script(how), "bash", dir, how.At, inPlaceOf)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:   syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET,
		Unshareflags: syscall.CLONE_NEWNS, // and makes it private
		Pdeathsig:    syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	parts := strings.Split(string(out), mark+" ")
	if len(parts) != len(page.Commands)+2 {
		t.Fatalf("%d of %d commands were run:\n%s", len(parts)-1, len(page.Commands), out)
	}
	printed := make([]string, 0, len(parts))
	for _, part := range parts[1:] {
		_, text, _ := strings.Cut(part, "\n")
		printed = append(printed, text)
	}
	page.Compare(t, printed[:len(page.Commands)])
	if remains := printed[len(page.Commands)]; remains != "" {
		t.Errorf("%s does not take everything away:\n%s", path, remains)
	}
}

// lay makes a directory of what is there when the commands are typed: page has the files, and bin mesh-init.
func (p Page) lay(dir string, how Typing) error {
	program, err := meshInit()
	if err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "bin", "mesh-init"), program, 0o755); err != nil {
		return err
	}
	for _, path := range how.Programs {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "bin", filepath.Base(path)), text, 0o755); err != nil {
			return err
		}
	}
	if how.Folder != "" {
		if err := os.CopyFS(filepath.Join(dir, "page"), os.DirFS(how.Folder)); err != nil {
			return err
		}
	}
	at := filepath.Join(dir, "page", how.At)
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	for _, files := range []map[string]string{how.Before.Files, p.Files} {
		for name, text := range files {
			if err := os.WriteFile(filepath.Join(at, name), []byte(text), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// script types the commands. Before each, and after the last, stands a mark.
func (p Page) script(how Typing) string {
	var script strings.Builder
	script.WriteString(prelude)
	before := len(how.Before.Commands)
	for i, c := range slices.Concat(how.Before.Commands, p.Commands) {
		if i >= before {
			fmt.Fprintf(&script, "echo '%s %d'\n", mark, i-before)
		}
		if c.readsLog() { // what it shows may be on its way yet: HAProxy logs a connection when it has ended
			fmt.Fprintf(&script, "await shows %d %s\n", strings.Count(c.Output, "\n"), quoted(c.Line))
		}
		script.WriteString(c.Line + "\n")
		if strings.Contains(c.Line, "kill $(ip netns pids pod)") {
			script.WriteString("await gone\n")
		}
		for begins, ports := range how.Listening {
			if strings.HasPrefix(c.Line, begins) {
				for _, port := range ports {
					fmt.Fprintf(&script, "await listens %04X\n", port)
				}
			}
		}
	}
	fmt.Fprintf(&script, "echo '%s end'\n", mark)
	if how.Cleans {
		script.WriteString(left)
	}
	script.WriteString("exit 0\n")
	return script.String()
}

// quoted is a text as one word of a shell.
func quoted(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }
