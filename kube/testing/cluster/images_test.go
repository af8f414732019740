//go:build linux && cluster

package cluster

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"github.com/mesh-intercept/intercept/kube/internal/image"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// Images of the scenario that no profile and no page names.
const (
	coreImage = "localhost/coredns:1"
	appImage  = "registry.k8s.io/e2e-test-images/agnhost:2.53"
)

// importImages gives the node every image of the scenario: ours, CoreDNS, the app,
// and those that the shipped profiles name, made of this machine's programs.
func (c *cluster) importImages() {
	c.t.Helper()
	c.Import(imageArchive, imageName)
	programs := filepath.Dir(c.program)
	c.importImage(coreImage, []string{"/coredns"}, map[string]string{filepath.Join(programs, "coredns"): "coredns"})
	c.importImage(appImage, []string{"/agnhost"}, map[string]string{
		filepath.Join(programs, "agnhost"): "agnhost", "curl": "", "sh": "", "sleep": "",
	})
	profile, err := os.ReadFile("../../../podspec/inject/profiles/haproxy-dns.yaml")
	if err != nil {
		c.t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`image: (\S+(haproxy|dnsmasq)\S*)`).FindAllStringSubmatch(string(profile), -1) {
		c.importImage(m[1], []string{"/usr/sbin/" + m[2]}, map[string]string{m[2]: ""})
	}
}

// importImage makes an image of programs, each at a path, or where this machine has
// it, and of the libraries that the dynamic linker finds for them.
func (c *cluster) importImage(name string, entrypoint []string, programs map[string]string) {
	c.t.Helper()
	files := map[string][]byte{}
	add := func(from, to string) {
		b, err := os.ReadFile(from)
		if err != nil {
			c.t.Fatal(err)
		}
		files[strings.TrimPrefix(to, "/")] = b
	}
	for program, to := range programs {
		path, err := exec.LookPath(program)
		if err != nil {
			c.t.Fatalf("%s: %v", program, err)
		}
		if to == "" {
			netlab.RequireProgram(c.t, "ldd")
			to = path
		}
		add(path, to)
		list, _ := exec.Command("ldd", path).Output() // fails where a program is static
		for word := range strings.FieldsSeq(string(list)) {
			if filepath.IsAbs(word) && !strings.HasSuffix(word, ":") {
				add(word, word)
			}
		}
	}
	archive, err := image.Archive(image.Image{
		Name: name, Architecture: runtime.GOARCH, Entrypoint: entrypoint, Files: files,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	path := c.Path("image.tar")
	if err := os.WriteFile(path, archive, 0o600); err != nil {
		c.t.Fatal(err)
	}
	c.Import(path, name)
}
