package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mesh-intercept/intercept/internal/cniconf"
	"github.com/mesh-intercept/intercept/internal/cniwire"
	"github.com/mesh-intercept/intercept/kube/internal/agent/keeper"
	"github.com/mesh-intercept/intercept/kube/internal/agent/probe"
	"github.com/mesh-intercept/intercept/kube/internal/conflist"
)

// Diagnosis is one thing that doctor has looked at.
type Diagnosis struct {
	What string `json:"what"`
	OK   bool   `json:"ok"`
	Says string `json:"says"`
}

// Doctor looks at a node without changing it, and without the API server.
func Doctor(ctx context.Context, p keeper.Place, conf cniconf.Conf) []Diagnosis {
	diagnose := func(what, good string, err error) Diagnosis {
		if err != nil {
			return Diagnosis{what, false, err.Error()}
		}
		return Diagnosis{what, true, good}
	}
	var all []Diagnosis
	files, err := p.Conf.Read()
	primary, steps := "", []conflist.Step(nil)
	if err == nil {
		primary, steps, err = conflist.Install(files, p.Entry)
		if err != nil {
			err = fmt.Errorf("%s: %w", p.Conf.Path, err)
		}
	}
	var elsewhere []string
	if err == nil && p.Runtime != nil {
		elsewhere, err = p.Runtime(ctx)
	}
	all = append(all, diagnose("the pods' network",
		fmt.Sprintf("%s, of %s", filepath.Join(p.Conf.Path, primary),
			strings.Join(conflist.Types(files[primary].Data), ", ")), err))
	if err == nil {
		if len(steps) > 0 {
			err = errors.New("it is not the last of that list, or not as these settings make it; the agent puts it there " +
				"while it runs")
		}
		all = append(all, diagnose("our entry", "in place", err))
	}
	plugin := filepath.Join(p.Bin.Path, p.Entry.Type)
	info, err := os.Stat(plugin)
	good := ""
	switch {
	case err != nil && len(conflist.Holding(files, p.Entry.Type)) > 0:
		err = fmt.Errorf("%w: and %s names it, so that no pod starts; run mesh-cni-agent uninstall, or the agent", err,
			strings.Join(conflist.Holding(files, p.Entry.Type), ", "))
	case err == nil && info.Mode().Perm()&0o111 == 0:
		err = fmt.Errorf("%s cannot be executed (%s)", plugin, info.Mode())
	case err == nil:
		good = fmt.Sprintf("%s, %d bytes", plugin, info.Size())
		err = p.OthersThere(files[primary], elsewhere)
	}
	all = append(all, diagnose("the plugin", good, err))
	if err == nil {
		within, cancel := context.WithTimeout(ctx, 30*time.Second)
		all = append(all, diagnose("an ADD, tried", "its rules were in force", probe.Add(within, plugin, p.Entry.JSON)))
		cancel()
	}
	within, cancel := context.WithTimeout(ctx, conf.AgentTimeout)
	defer cancel()
	return append(all, diagnose("the agent's socket", conf.AgentSocket+" answers", cniwire.Ping(within, conf.AgentSocket)))
}
