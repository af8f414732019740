// Package intercept turns a configuration into the netfilter rules that send a pod's traffic through its sidecar proxy.
//
// It works in three steps. A [Config] says what to capture. [Compile] turns it into a [Ruleset]: plain data, each rule
// with an ID and the reason it exists. A backend, package nft or iptables, puts the Ruleset into the kernel; package
// dataplane chooses the backend and enters a network namespace.
//
// [Ruleset.Trace] evaluates the same rules on a packet and says what happens to it and why, without a kernel.
//
// The words that rules are made of are package ruleset's. This package has the same names for them, and for the lists
// that a Config is made of.
//
// This package does no I/O, imports nothing but ruleset and the standard library, and builds on every operating system.
package intercept
