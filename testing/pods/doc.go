// Package pods holds verify to pods that work and to pods that do not: each of those is broken in one way, which verify
// has to name, and nothing else.
package pods
