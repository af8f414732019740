// Package ruleset is the vocabulary of netfilter rules that Intercept is written in, and what a packet meets of them.
//
// A [Ruleset] is plain data: base chains at hooks, rules in chains, each rule with an ID, a reason, its matches and its
// target. [Ruleset.Trace] evaluates one on a packet as the kernel would. Package intercept compiles a configuration
// into a Ruleset; the packages nft and iptables put one into a kernel. This package knows neither: it needs the
// standard library alone, does no I/O, and builds on every operating system.
package ruleset
