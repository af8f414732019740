// Command kubectl-intercept is a plugin of kubectl: it says how interception is in pods, without a shell in them. It
// asks the agents of the nodes, by the API server: see docs/operations.md.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/version"
	"github.com/mesh-intercept/intercept/kube/internal/answers"
	"github.com/mesh-intercept/intercept/kube/internal/reach"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// program is what one command line asks for.
type program struct {
	stdout, stderr io.Writer
	rules          *clientcmd.ClientConfigLoadingRules
	over           *clientcmd.ConfigOverrides
	agents         reach.Options
	image          string
	// byContainer is whether agents are not asked.
	byContainer bool
	timeout     time.Duration
	all         bool
	code        int
}

// run is the command without the process around it. It returns the exit code, which is mesh-init's of the verb.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	p := &program{stdout: stdout, stderr: stderr, rules: clientcmd.NewDefaultClientConfigLoadingRules(),
		over: &clientcmd.ConfigOverrides{}, agents: reach.Defaults(), code: cli.ExitDone}
	root := p.root()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	if err := root.ExecuteContext(ctx); err != nil {
		for _, e := range strict.Flatten(err) {
			fmt.Fprintln(stderr, "kubectl intercept: "+strict.OneLine(e.Error()))
		}
		if _, usage := errors.AsType[cli.UsageError](err); usage {
			return cli.ExitUsage
		}
		return cli.ExitFailed
	}
	return p.code
}

func (p *program) root() *cobra.Command {
	root := &cobra.Command{
		Use: "kubectl-intercept", Annotations: map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl intercept"},
		Short:        "Say how the interception of pods' traffic is",
		SilenceUsage: true, SilenceErrors: true,
		Example: `  kubectl intercept status -A                       # every pod, the most trouble first
  kubectl intercept status web                      # is its traffic intercepted, and what was counted?
  kubectl intercept verify web                      # prove it
  kubectl intercept explain web --dst 10.1.2.3:443  # what becomes of this call of it?
  kubectl intercept trace web --dst 10.1.2.3:443    # follow it through the rules`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage("%q is no verb; verbs are %s", strict.Clip(args[0]), strings.Join(verbNames(), ", "))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return cli.UsageError{Err: err} })
	root.AddCommand(&cobra.Command{Use: "version", Short: "print the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(p.stdout, "kubectl-intercept "+version.Get().String())
			return err
		}})
	for _, v := range answers.Verbs() {
		root.AddCommand(p.verb(v))
	}
	set := root.PersistentFlags()
	set.StringVar(&p.rules.ExplicitPath, "kubeconfig", "", "`FILE` with the cluster and the user")
	names := clientcmd.RecommendedConfigOverrideFlags("")
	clientcmd.BindOverrideFlags(p.over, set, names)
	for _, name := range []string{"cluster", "user", "client-certificate", "client-key", "certificate-authority",
		"insecure-skip-tls-verify", "tls-server-name", "username", "password", "proxy-url", "disable-compression",
		"as-uid", "as-user-extra", "request-timeout", "server", "token"} {
		if f := set.Lookup(name); f != nil {
			f.Hidden = true // they are kubectl's
		}
	}
	set.DurationVar(&p.timeout, "timeout", time.Minute, "how long to wait for an answer")
	set.StringVar(&p.image, "image", "",
		"`IMAGE` with mesh-init: where the node has no agent, an ephemeral container of it is added\nto the pod, and looks")
	set.BoolVar(&p.byContainer, "no-agent", false, "do not ask the agent, but use --image")
	set.StringVar(&p.agents.Namespace, "agent-namespace", p.agents.Namespace, "`NAMESPACE` of the agents")
	set.StringVar(&p.agents.Selector, "agent-selector", p.agents.Selector, "`LABELS` of the agents' pods")
	set.StringVar(&p.agents.Port, "agent-port", p.agents.Port, "`PORT` of the agents' --answers")
	set.StringVar(&p.agents.Account, "account", p.agents.Account,
		"service `ACCOUNT` in whose name agents are asked, as NAME or NAMESPACE/NAME")
	return root
}

func verbNames() (names []string) {
	for _, v := range answers.Verbs() {
		names = append(names, v.Name)
	}
	return names
}

func usage(format string, args ...any) error { return cli.UsageError{Err: fmt.Errorf(format, args...)} }

// verb is the command of a verb.
func (p *program) verb(v answers.Verb) *cobra.Command {
	many := v.Name == "status"
	cmd := &cobra.Command{Use: v.Name + " POD", Short: v.Does, ValidArgsFunction: p.complete}
	if many {
		cmd.Use = v.Name + " [POD]"
		cmd.Long = "Say whether a pod is intercepted, by which rules, and what they have counted; without a POD, a line\n" +
			"for each pod of the namespace, or with -A of the cluster, the most trouble first."
		cmd.Flags().BoolVarP(&p.all, "all-namespaces", "A", false, "every pod of the cluster")
	}
	for _, f := range v.Flags {
		if f.Form == "" {
			cmd.Flags().Bool(f.Name, false, f.Does)
			continue
		}
		short := ""
		if f.Name == "output" {
			short = "o"
		}
		cmd.Flags().VarP(&value{form: f.Form}, f.Name, short, f.Does)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if v.Follows && !cmd.Flags().Changed("timeout") { // --for says how long; the agent keeps to its own limit
			p.timeout = answers.LongestFollow + time.Minute
		}
		ctx, cancel := context.WithTimeoutCause(cmd.Context(), p.timeout,
			fmt.Errorf("no answer within %s (--timeout)", p.timeout))
		defer cancel()
		err := p.do(ctx, v, many, args, given(cmd.Flags(), v))
		if cause := context.Cause(ctx); err != nil && cause != nil {
			err = fmt.Errorf("%w: %w", cause, err)
		}
		return err
	}
	return cmd
}

// value is the value of a flag that is passed on as it is.
type value struct{ text, form string }

// String implements [pflag.Value].
func (v *value) String() string { return v.text }

// Set implements [pflag.Value].
func (v *value) Set(text string) error { v.text = text; return nil }

// Type implements [pflag.Value]: help shows it.
func (v *value) Type() string { return v.form }

// given are the flags that a verb is given.
func given(set *pflag.FlagSet, v answers.Verb) map[string]string {
	all := map[string]string{}
	for _, f := range v.Flags {
		if set.Changed(f.Name) {
			all[f.Name] = set.Lookup(f.Name).Value.String()
		}
	}
	return all
}

func (p *program) do(ctx context.Context, v answers.Verb, many bool, args []string, flags map[string]string) error {
	switch {
	case len(args) > 1:
		return usage("%d pods; name one", len(args))
	case len(args) == 0 && !many:
		return usage("which pod? kubectl intercept %s POD", v.Name)
	case len(args) == 1 && p.all:
		return usage("--all-namespaces is of every pod; leave out %s", strict.Clip(args[0]))
	case p.byContainer && p.image == "":
		return usage("--no-agent needs --image, one with mesh-init")
	case p.byContainer && len(args) == 0:
		return usage("--no-agent: which pod?")
	}
	config, namespace, err := p.config()
	if err != nil {
		return err
	}
	c, err := reach.New(config, p.agents)
	if err != nil {
		return err
	}
	if len(args) == 0 {
		if p.all {
			namespace = ""
		}
		return p.list(ctx, c, namespace, flags["output"])
	}
	return p.one(ctx, c, v, namespace, strings.TrimPrefix(strings.TrimPrefix(args[0], "pods/"), "pod/"), flags)
}

// config is how to reach the API server, and the namespace of the context.
func (p *program) config() (*rest.Config, string, error) {
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(p.rules, p.over)
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, "", err
	}
	config.UserAgent = "kubectl-intercept/" + version.Short()
	namespace, _, err := loader.Namespace()
	return config, namespace, err
}

// one has a verb carried out for a pod.
func (p *program) one(ctx context.Context, c *reach.Cluster, v answers.Verb, namespace, name string,
	flags map[string]string) error {
	pod, err := c.Pod(ctx, namespace, name)
	if err != nil {
		return err
	}
	if pod.Spec.NodeName == "" {
		return fmt.Errorf("pod %s/%s is on no node yet", namespace, name)
	}
	var agents []reach.Agent
	if !p.byContainer {
		if agents, err = c.Agents(ctx, pod.Spec.NodeName); err != nil {
			return err
		}
	}
	var a answers.Answer
	switch {
	case len(agents) > 0:
		client, err := c.Client(ctx, agents[0])
		if err != nil {
			return err
		}
		if v.Follows {
			a, err = client.Follow(ctx, v, namespace, name, flags, p.tell)
		} else {
			a, err = client.Ask(ctx, v, namespace, name, flags)
		}
		if err != nil {
			return err
		}
	case p.image == "":
		return fmt.Errorf("node %s has no agent that runs (pods with %s in namespace %s); with --image an ephemeral "+
			"container of the pod looks instead", pod.Spec.NodeName, p.agents.Selector, p.agents.Namespace)
	default:
		if a, err = c.InContainer(ctx, pod, p.image, arguments(v, flags)); err != nil {
			return err
		}
	}
	p.code = a.Exit
	at, text := place(v, flags, a), a.Stdout
	if at == before {
		text = a.String() + "\n" + text
	}
	_, err = io.WriteString(p.stdout, text)
	if at == aside {
		fmt.Fprintln(p.stderr, a.String())
	}
	fmt.Fprint(p.stderr, a.Stderr)
	return err
}

// A where is a place for the line that says how it is with a pod, beside the answer about it.
type where int

const (
	nowhere where = iota
	before
	aside // on standard error
)

// place says where that line belongs.
func place(v answers.Verb, flags map[string]string, a answers.Answer) where {
	form := cmp.Or(flags["output"], string(cli.Text))
	switch {
	case a.State == "" || a.State == answers.Intercepting:
		return nowhere
	case v.Follows:
		return aside // the answer has been shown
	case v.Document || form != string(cli.Text) && form != "wide":
		return nowhere
	case v.Name == "status" && (!a.State.OfRequest() || strings.HasPrefix(a.Stdout, string(a.State)+": ")):
		return nowhere // mesh-init begins with it itself
	case v.Name == "explain" && a.State.InForce():
		return aside // what is explained is what happens
	}
	return before
}

// tell shows a part of an answer as it comes.
func (p *program) tell(part answers.Part) error {
	_, err := io.WriteString(p.stdout, part.Stdout)
	fmt.Fprint(p.stderr, part.Stderr)
	return err
}

// arguments are a verb and its flags, as mesh-init takes them.
func arguments(v answers.Verb, flags map[string]string) []string {
	args := []string{v.Name}
	for _, f := range v.Flags {
		if text, ok := flags[f.Name]; ok {
			args = append(args, "--"+f.Name+"="+text)
		}
	}
	return args
}

// complete completes the names of pods.
func (p *program) complete(cmd *cobra.Command, args []string, begin string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), 5*time.Second)
	defer cancel()
	config, namespace, err := p.config()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	c, err := reach.New(config, p.agents)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	all, err := c.Names(ctx, namespace)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for _, name := range all {
		if strings.HasPrefix(name, begin) {
			names = append(names, name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
