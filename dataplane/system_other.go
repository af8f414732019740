//go:build !linux

package dataplane

func hasIPv6() bool { return false }

func release() string { return "unknown" }

func errnoName(error) string { return "" }

func podsBehind() string { return "" }

func takeUpCapabilities() {}
