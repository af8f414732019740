//go:build linux

package nft

import (
	"errors"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/internal/nlattr"
	"github.com/mesh-intercept/intercept/ruleset"
)

// lacking adds to a refusal of a table, or of one of its rules, which module the kernel lacks, if one is the reason. It
// tries part by part: each type of chain, and each expression of the rule, which the kernel looks up by its name before
// it looks at anything else of the rule (nf_tables_expr_parse in net/netfilter/nf_tables_api.c).
func (conn *Conn) lacking(t table, only *rule, refusal error) error {
	if !errors.Is(refusal, unix.ENOENT) && !errors.Is(refusal, unix.EOPNOTSUPP) {
		return refusal
	}
	refused := func(c chain) error {
		return conn.try(every, table{family: t.family, spec: t.spec, chains: []chain{c}})
	}
	if only == nil {
		for _, c := range t.chains {
			c.rules = nil
			if !c.isBase() || refused(c) == nil {
				continue
			}
			module := "nft_chain_" + c.typ.String()
			return &ruleset.ModulesError{What: "chains of type " + c.typ.String(), Modules: []string{module}, Err: refusal}
		}
		return refusal
	}
	var lacks []string
	var modules []string
	var answer error
	for _, e := range expressionsOf(only.encoded) {
		if isBuiltIn(e.name) || slices.Contains(lacks, e.name) {
			continue
		}
		alone := chain{name: "alone", rules: []rule{{encoded: e.list}}}
		if err := refused(alone); errors.Is(err, unix.ENOENT) {
			lacks, modules, answer = append(lacks, e.name), append(modules, modulesOf(t.family, e.name)...), err
		}
	}
	if len(lacks) == 0 {
		return refusal
	}
	return &ruleset.ModulesError{What: "expression " + strings.Join(lacks, ", "), Modules: modules, Err: answer}
}

// A namedExpression is one of a rule, by itself.
type namedExpression struct {
	name string
	list []byte // of this one, as the kernel takes it
}

// expressionsOf returns each expression in a list of them.
func expressionsOf(list []byte) (all []namedExpression) {
	for _, elem := range nlattr.All(list) {
		var e namedExpression
		for typ, data := range nlattr.All(elem) {
			if typ == unix.NFTA_EXPR_NAME {
				e.name = zeroTerminated(data)
			}
		}
		var err error
		e.list, err = netlink.MarshalAttributes([]netlink.Attribute{
			{Type: unix.NLA_F_NESTED | unix.NFTA_LIST_ELEM, Data: elem}})
		if err == nil {
			all = append(all, e)
		}
	}
	return all
}

// isBuiltIn reports whether an expression is part of nf_tables itself, in each Linux that has NAT of nftables (4.18).
func isBuiltIn(expression string) bool {
	switch expression {
	case "immediate", "cmp", "lookup", "bitwise", "byteorder", "payload", "range", "meta", "exthdr", "dynset":
		return true
	}
	return false
}

// modulesOf returns the modules that provide an expression in tables of a family.
func modulesOf(f nftables.TableFamily, expression string) []string {
	switch expression {
	case "reject":
		switch f {
		case nftables.TableFamilyIPv4:
			return []string{"nft_reject_ipv4"}
		case nftables.TableFamilyIPv6:
			return []string{"nft_reject_ipv6"}
		}
		return []string{"nft_reject_inet"}
	case "tproxy":
		return []string{"nft_tproxy", "nf_tproxy_ipv4", "nf_tproxy_ipv6"}
	case "socket":
		return []string{"nft_socket", "nf_socket_ipv4", "nf_socket_ipv6"}
	}
	return []string{"nft_" + expression}
}
