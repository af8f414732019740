//go:build linux

package nft

import (
	"github.com/google/nftables"

	"github.com/mesh-intercept/intercept/ruleset"
)

// compile lowers a Ruleset, and encodes it for the kernel.
func compile(rs ruleset.Ruleset, lay layout) (program, error) {
	prog, err := lower(rs, lay)
	for i := range prog {
		if err == nil {
			err = prog[i].encode()
		}
	}
	if err != nil {
		return nil, err
	}
	return prog, nil
}

// encode encodes the rules, one behind the other.
func (t *table) encode() (err error) {
	var all []byte
	for _, c := range t.chains {
		for i := range c.rules {
			r := &c.rules[i]
			if cap(all)-len(all) < room {
				all = make([]byte, 0, 32<<10) // what there is stays where it is
			}
			begin := len(all)
			if all, err = appendEncoded(all, t.family, r.stmts); err != nil {
				return &ruleset.RuleError{Chain: c.name, Rule: r.id, Err: err}
			}
			r.encoded = all[begin:len(all):len(all)]
		}
	}
	return nil
}

// keep adds a note to each table, and which chains of others are older.
func (p program) keep(note, older string) error {
	for i := range p {
		if err := p[i].keep(note); err != nil {
			return err
		}
		p[i].olderChains = older
	}
	return nil
}

// keep lowers a note to rules that no packet meets. It belongs neither to the fingerprint nor to what is compared.
func (t *table) keep(note string) error {
	t.note = nil
	for _, comment := range ruleset.NoteComments(note, ruleset.MaxComment) {
		target, err := t.target(ruleset.Rule{Target: ruleset.Return{}}, 0)
		if err != nil {
			return err
		}
		encoded, err := encode(t.family, []stmt{target})
		if err != nil {
			return err
		}
		t.note = append(t.note, rule{"", comment, []stmt{target}, encoded})
	}
	return nil
}

func (k keyType) datatype() nftables.SetDatatype {
	return [...]nftables.SetDatatype{
		keyPort: nftables.TypeInetService, keyIPv4: nftables.TypeIPAddr, keyIPv6: nftables.TypeIP6Addr,
		keyUID: nftables.TypeUID, keyGID: nftables.TypeGID, keyProto: nftables.TypeInetProto,
		keyTuple4: tupleType(nftables.TypeIPAddr), keyTuple6: tupleType(nftables.TypeIP6Addr),
		keySettling: nftables.TypeCTState,
	}[k]
}

func tupleType(addr nftables.SetDatatype) nftables.SetDatatype {
	port := nftables.TypeInetService
	t, _ := nftables.ConcatSetType(addr, port, addr, port) // four are not too many
	return t
}
