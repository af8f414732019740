// Package intercept turns a configuration into the netfilter rules that send a
// pod's traffic through its sidecar proxy.
//
// It works in three steps. A [Config] says what to capture. [Compile] turns it
// into a [Ruleset]: plain data, each rule with the reason it exists. A backend,
// package nft, puts the Ruleset into the kernel; package dataplane
// chooses the backend and enters a network namespace.
//
// [Ruleset.Trace] evaluates the same rules on a packet and says what happens
// to it and why, without a kernel.
//
// This package does no I/O, imports the standard library only, and builds on
// every operating system.
package intercept
