//go:build linux

package pods

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/testing/netlab"
	"github.com/mesh-intercept/intercept/verify"
)

// againVariable has this binary verify a namespace, instead of testing: its path and how often.
const againVariable = "PODS_TEST_VERIFY"

// verifyAgain prints what is not as it has to be.
func verifyAgain(spec string) error {
	path, n, _ := strings.Cut(spec, " ")
	times, err := strconv.Atoi(n)
	if err != nil {
		return err
	}
	c := intercept.Default()
	allDNS(&c)
	for i := range times {
		report, err := dataplane.Pod{NetNS: path}.Verify(context.Background(), c)
		if err != nil {
			return fmt.Errorf("verify %d: %w", i+1, err)
		}
		for _, v := range report.Verdicts {
			if v.Verdict != verify.OK {
				fmt.Printf("verify %d: %s: %s\n", i+1, v.Verdict, v)
			}
		}
	}
	return nil
}

// begin begins to verify a pod in a process of its own. The function that it returns waits for what that says.
func begin(t *testing.T, lab *netlab.Lab, times int) (cmd *exec.Cmd, end func() string) {
	t.Helper()
	cmd = exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d", againVariable, lab.Pod.Path(), times))
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, func() string {
		if err := cmd.Wait(); err != nil {
			out.WriteString(err.Error())
		}
		return out.String()
	}
}

// leftOver are the entries of conntrack in the pod with a port that verify sends from.
func leftOver(t *testing.T, lab *netlab.Lab) (all []string) {
	t.Helper()
	err := lab.Pod.Do(func() error {
		for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
			entries, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
			if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
				return err
			}
			for _, e := range entries {
				ports := []uint16{e.Forward.SrcPort, e.Forward.DstPort, e.Reverse.SrcPort, e.Reverse.DstPort}
				if slices.ContainsFunc(ports, (ruleset.Ports{verify.SourcePorts}).Contains) {
					all = append(all, e.String()+"\n")
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestAgain: what verify finds does not hang on a verify before it, or beside it, and nothing of it stays in conntrack.
func TestAgain(t *testing.T) {
	pod := func(t *testing.T) *netlab.Lab {
		t.Helper()
		t.Parallel()
		lab := netlab.NewT(t, netlab.Options{})
		c := intercept.Default()
		allDNS(&c)
		if _, err := (dataplane.Pod{NetNS: lab.Pod.Path()}).Apply(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		for _, each := range withDNS() {
			each.start(t, lab.Pod)
		}
		return lab
	}
	clean := func(t *testing.T, lab *netlab.Lab) {
		t.Helper()
		if all := leftOver(t, lab); len(all) > 0 {
			t.Errorf("conntrack has %d entries of verify's:\n%s", len(all), strings.Join(all, ""))
		}
	}
	t.Run("30 times", func(t *testing.T) {
		lab := pod(t)
		_, end := begin(t, lab, 30)
		if out := end(); out != "" {
			t.Error(out)
		}
		clean(t, lab)
	})
	t.Run("two at a time", func(t *testing.T) {
		lab := pod(t)
		_, first := begin(t, lab, 5)
		_, second := begin(t, lab, 5)
		if out := first() + second(); out != "" {
			t.Error(out)
		}
		clean(t, lab)
	})
	t.Run("after some that were killed", func(t *testing.T) {
		lab := pod(t)
		for range 10 {
			before := len(leftOver(t, lab))
			cmd, end := begin(t, lab, 1)
			for deadline := time.Now().Add(20 * time.Second); len(leftOver(t, lab)) <= before; {
				if time.Now().After(deadline) {
					t.Fatal("conntrack shows nothing of a verify that is under way")
				}
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			end()
		}
		if len(leftOver(t, lab)) == 0 {
			t.Fatal("those that were killed left nothing")
		}
		_, end := begin(t, lab, 3)
		if out := end(); out != "" {
			t.Error(out)
		}
	})
}
