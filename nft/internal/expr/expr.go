// Package expr is what package nft says to the kernel, in the words of github.com/google/nftables: those of them that
// rules are lowered to. On Linux they are that library's own. Elsewhere it does not build, and they are types of the same
// form that nobody sends, so that a rule's text and its expressions can stay side by side in one place, and the text be
// had on every system.
package expr
