package quickstart

import "strings"

// A Run says which test runs commands that a page shows.
type Run struct {
	// Page is the file, from the root of the repository.
	Page string
	// Language is that of the blocks, console or sh.
	Language string
	// Section, if it is there, is the heading of the second level above them.
	Section string
	// First, if it is there, is how the first command begins.
	First string
	// Test is a directory and the test in it. It types the commands, unless there is a reason why not.
	Test string
	// Why is the reason for which the commands are not typed as they stand there. Then the test, if one is named, does
	// the same by other means.
	Why string
}

// Covers reports whether a block of a page is meant.
func (r Run) Covers(page string, b Block) bool {
	return r.Page == page && r.Language == b.Language && (r.Section == "" || r.Section == b.Section) &&
		strings.HasPrefix(b.First(), r.First)
}

const (
	cluster  = "kube/testing/cluster"
	e2e      = "testing/e2e"
	released = "kube/testing/release"

	// Shown is the test that runs what mesh-init is shown with.
	Shown = e2e + " TestShownCommands"
)

// The reasons.
const (
	needsCluster = "it needs a cluster"
	needsMesh    = "it needs a cluster with that mesh"
	needsImages  = "it needs a container engine or a registry"
	needsGitHub  = "it needs GitHub"
	needsHost    = "it changes the machine itself"
	// A test holds that each target exists.
	targets = "these are targets of make, which continuous integration runs, or whoever needs them"
)

// Runs is the one list: it covers each block of commands in README, CONTRIBUTING and docs/.
func Runs() []Run {
	return []Run{
		{"README.md", "sh", "", "git clone", "testing/demo TestDemo", needsGitHub},
		{"README.md", "sh", "", "mesh-init ", Shown, ""},
		{"CONTRIBUTING.md", "sh", "", "", "", targets},
		{"docs/agent.md", "sh", "Deploy", "docker load", "kube/testing/containerd TestContainerd", needsImages},
		{"docs/agent.md", "sh", "Deploy", "kubectl apply", cluster + " TestCluster", needsCluster},
		{"docs/agent.md", "sh", "Questions about pods", "curl ", "kube/cmd/mesh-cni-agent TestAnswers", needsCluster},
		{"docs/agent.md", "sh", "Questions about pods", "kubectl create", cluster + " TestKubectlIntercept", needsCluster},
		{"docs/agent.md", "sh", "Doctor", "", cluster + " TestCluster", needsCluster},
		{"docs/annotations.md", "console", "", "", e2e + " TestReadingPages", ""},
		{"docs/backends.md", "console", "", "", e2e + " TestBackendsPage", ""},
		{"docs/cni.md", "sh", "Install by hand", "", "kube/testing/containerd TestContainerd", needsHost},
		{"docs/concepts.md", "console", "", "", e2e + " TestReadingPages", ""},
		{"docs/configuration.md", "console", "", "", e2e + " TestReadingPages", ""},
		{"docs/faq.md", "console", "", "", e2e + " TestFAQ", ""},
		{"docs/getting-started.md", "sh", "", "git clone", "", needsGitHub},
		{"docs/getting-started.md", "console", "In a cluster", "", cluster + " TestGettingStarted", ""},
		{"docs/getting-started.md", "sh", "With an init container", "", Shown, ""},
		{"docs/getting-started.md", "sh", "From the node", "", cluster + " TestCluster", needsCluster},
		{"docs/getting-started.md", "sh", "From a Go program", "", e2e + " TestGoProgram", ""},
		{"docs/getting-started.md", "console", "From a Go program", "", e2e + " TestGoProgram", ""},
		{"docs/getting-started.md", "console", "On a bare host", "", e2e + " TestBareHost", ""},
		{"docs/helm.md", "sh", "", "", cluster + " TestHelm", ""},
		{"docs/injection.md", "console", "", "", e2e + " TestInjectionPage", ""},
		{"docs/injection.md", "sh", "", "", Shown, ""},
		{"docs/injector.md", "sh", "Profiles", "", cluster + " TestCluster", needsCluster},
		{"docs/injector.md", "sh", "", "kubectl ", cluster + " TestGettingStarted", needsCluster},
		{"docs/injector.md", "console", "", "kubectl ", cluster + " TestScenario", needsCluster},
		{"docs/migrate-istio.md", "console", "", "", e2e + " TestMigrateIstio", ""},
		{"docs/migrate-istio.md", "sh", "", "istioctl ", e2e + " TestIstiosPods", needsMesh},
		{"docs/migrate-kuma.md", "console", "", "", e2e + " TestMigrateKuma", ""},
		{"docs/migrate-kuma.md", "sh", "", "kubectl ", e2e + " TestInjectedByKuma", needsMesh},
		{"docs/migrate-linkerd.md", "console", "", "", e2e + " TestMigrateLinkerd", ""},
		{"docs/migrate-linkerd.md", "sh", "", "helm ", e2e + " TestLinkerdsPods", needsMesh},
		{"docs/operations.md", "sh", "", "mesh-init ", Shown, ""},
		{"docs/operations.md", "sh", "From kubectl", "kubectl intercept", cluster + " TestKubectlIntercept", needsCluster},
		{"docs/operations.md", "sh", "From kubectl", "exec kubectl-intercept", "kube/cmd/kubectl-intercept TestUsage",
			"it is what kubectl runs"},
		{"docs/performance.md", "sh", "", "make ", "", targets},
		{"docs/quickstart.md", "console", "", "", e2e + " TestQuickstart", ""},
		{"docs/quickstart.md", "sh", "1. Build", "", "", targets + "; the packages are those of testing/netlab/packages.txt"},
		{"docs/quickstart.md", "sh", "5. In Kubernetes", "make image", "kube/testing/quickstart TestPod", needsImages},
		{"docs/quickstart.md", "sh", "5. In Kubernetes", "kubectl exec", cluster + " TestCluster", needsCluster},
		{"docs/release.md", "sh", "", "git checkout", released + " TestReproducible", "it makes a whole release, twice"},
		{"docs/release.md", "sh", "", "cosign ", "", needsGitHub},
		{"docs/release.md", "sh", "", "skopeo ", "", needsImages},
		{"docs/release.md", "sh", "", "kubectl debug ", released + " TestRun", needsCluster},
		{"docs/release.md", "sh", "A machine outside a cluster", "apt ", released + " TestDeb", needsHost},
		{"docs/sandbox.md", "console", "", "", e2e + " TestSandbox", ""},
		{"docs/sandbox.md", "sh", "", "kubectl ", "kube/testing/quickstart TestSandboxPod", needsCluster},
		{"docs/scenario.md", "sh", "", "", cluster + " TestScenario", ""},
		{"docs/scenario.md", "console", "", "", cluster + " TestScenario", ""},
	}
}
