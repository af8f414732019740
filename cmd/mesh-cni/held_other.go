//go:build !linux

package main

func (in *input) hold() (release func()) { return func() {} }
