//go:build js && wasm

// Program wasm is package answer for browsers: intercept.ask(text) answers a request, and is all there is.
package main

import (
	"syscall/js"

	"github.com/mesh-intercept/intercept/site/answer"
)

func main() {
	ask := js.FuncOf(func(_ js.Value, args []js.Value) any {
		if len(args) != 1 || args[0].Type() != js.TypeString {
			return `{"error":{"text":"ask takes one text"}}`
		}
		return string(answer.Ask([]byte(args[0].String())))
	})
	js.Global().Set("intercept", map[string]any{"ask": ask})
	select {} // the functions are there as long as this runs
}
