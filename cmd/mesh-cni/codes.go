package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cniconf"
	"github.com/mesh-intercept/intercept/internal/cniwire"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/podspec"
)

// codeUnavailable is the specification's of STATUS, "the plugin is not available".
const codeUnavailable uint = 50

// The specification leaves the codes from 100 on to plugins.
const (
	codeAnnotations  uint = 100
	codeKernel       uint = 101
	codePermission   uint = 102
	codeForeign      uint = 103
	codeDrifted      uint = 104
	codeNotThere     uint = 105
	codeOtherNetwork uint = 106
	codeOtherMesh    uint = 107
	codeFailed       uint = 110
)

// A code is one CNI error code, what it means here, and the word for it in the
// log.
type code struct {
	code    uint
	reason  string
	meaning string
}

// codes is the one table of error codes.
func codes() []code {
	return []code{
		{types.ErrIncompatibleCNIVersion, "version",
			"the list's cniVersion is not one of " + strings.Join(cniconf.Versions(), ", ") + ", or does not have the command"},
		{types.ErrUnsupportedField, "unknown-field", "the entry has a field that is not known"},
		{types.ErrUnknownContainer, "namespace-gone", "CHECK: the pod's network namespace is gone"},
		{types.ErrInvalidEnvironmentVariables, "environment",
			"the runtime left out a variable (CNI_…), or its value is malformed"},
		{types.ErrIOFailure, "io", "standard input could not be read, or is too long"},
		{types.ErrDecodingFailure, "decode", "the entry, runtimeConfig or prevResult is not the JSON that it should be"},
		{types.ErrInvalidNetworkConfig, "conf", "a field of the entry has a bad value"},
		{types.ErrInvalidNetNS, "netns", "there is no network namespace at CNI_NETNS"},
		{types.ErrTryAgainLater, "agent",
			"the node's agent could not say what the pod asks for, or another program held a lock: trying again may help"},
		{codeUnavailable, "unavailable", "STATUS: the next ADD of a pod that asks for interception would fail"},
		{codeAnnotations, "annotations",
			"the pod's annotations are wrong, or ask for more than the node lets them; each mistake is named"},
		{codeKernel, "unsupported", "the kernel, or a program to write rules with, lacks support"},
		{codePermission, "permission", "the plugin is not permitted to write rules"},
		{codeForeign, "foreign", "there is a table or chain of our name that someone else made"},
		{codeOtherMesh, "other-mesh", "rules of another mesh are in the pod's network namespace"},
		{codeDrifted, "drifted", "CHECK: the rules are not what the pod asks for; the first differences are named"},
		{codeNotThere, "not-intercepted", "CHECK: the pod asks for interception and has no rules"},
		{codeOtherNetwork, "runtime",
			"the pod's runtime (gVisor, Kata) brings a network stack of its own, where the rules would not be asked"},
		{codeFailed, "failed", "something else failed; the message says what"},
		{types.ErrInternal, "internal", "a bug of mesh-cni"},
	}
}

// reasonOf is the word for a code.
func reasonOf(n uint) string {
	for _, c := range codes() {
		if c.code == n {
			return c.reason
		}
	}
	return "failed"
}

// failed makes a CNI error of one of ours. what says who or what it is about.
func failed(what string, err error) *types.Error {
	c, remedy := classify(err)
	msg := what + ": " + sentence(err)
	if remedy != "" {
		msg += "; " + remedy
	}
	return types.NewError(c, msg, "")
}

// classify returns the code of an error, and what to do about it where the
// error does not say so itself.
func classify(err error) (code uint, remedy string) {
	var conf *cniconf.Error
	var annotation *podspec.Error
	switch {
	case errors.As(err, &conf) && unknownField(err):
		return types.ErrUnsupportedField, ""
	case errors.As(err, &conf):
		return types.ErrInvalidNetworkConfig, ""
	case errors.As(err, &annotation):
		return codeAnnotations, ""
	case errors.Is(err, errForeignRuntime):
		return codeOtherNetwork, ""
	case errors.Is(err, errDecode):
		return types.ErrDecodingFailure, ""
	case errors.Is(err, errUnknowable), errors.Is(err, cniwire.ErrNoAgent), errors.Is(err, cniwire.ErrSlow),
		errors.Is(err, cniwire.ErrGarbled), errors.Is(err, cniwire.ErrRefused):
		return types.ErrTryAgainLater, ""
	case errors.Is(err, intercept.ErrLocked):
		return types.ErrTryAgainLater, ""
	case errors.Is(err, dataplane.ErrNotNetNS):
		return types.ErrInvalidNetNS, ""
	case errors.Is(err, intercept.ErrUnsupported):
		return codeKernel, "mesh-init doctor on the node says what is missing and what mends it"
	case errors.Is(err, intercept.ErrPermission), errors.Is(err, fs.ErrPermission):
		return codePermission, "a runtime runs plugins as root with CAP_NET_ADMIN and CAP_SYS_ADMIN"
	case errors.Is(err, intercept.ErrForeign):
		return codeForeign, ""
	case errors.Is(err, dataplane.ErrOtherMesh):
		return codeOtherMesh, "mesh-init remove --foreign takes them out, and beside: other-mesh in the entry insists"
	case errors.Is(err, errDrifted):
		return codeDrifted, ""
	case errors.Is(err, intercept.ErrNotIntercepted):
		return codeNotThere, "restart the pod, or let the agent repair it"
	}
	return codeFailed, ""
}

// unknownField reports whether unknown fields are all that is wrong.
func unknownField(err error) bool {
	for _, e := range strict.Flatten(err) {
		var conf *cniconf.Error
		if !errors.As(e, &conf) || !conf.Unknown {
			return false
		}
	}
	return true
}

// maxMessage fits, with what kubelet and the runtime put around it, the event
// that kubelet makes of it (1,024 bytes).
const maxMessage = 700

// sentence puts all errors joined into one line that is not too long.
func sentence(err error) string {
	all := strict.Flatten(err)
	var b strings.Builder
	for i, e := range all {
		text := strict.OneLine(e.Error())
		if i > 0 && b.Len()+len(text) > maxMessage {
			fmt.Fprintf(&b, "; and %d more", len(all)-i)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		if len(text) > maxMessage {
			text = strings.ToValidUTF8(text[:maxMessage], "") + "…"
		}
		b.WriteString(text)
	}
	return b.String()
}

var (
	// errForeignRuntime reports a pod whose runtime does not ask the node's kernel.
	errForeignRuntime = errors.New("the rules would not be asked")
	// errDecode reports JSON that is not as it should be.
	errDecode = errors.New("not the JSON that belongs there")
	// errUnknowable reports that nobody can say what a pod asks for.
	errUnknowable = errors.New("nobody can say whether the pod asks for interception")
	// errDrifted reports rules that are not what the pod asks for.
	errDrifted = errors.New("the rules are not what the pod asks for")
)
