package conflist

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// File is one file of a directory.
type File struct {
	Data []byte
	// Err is why it could not be read.
	Err error
}

// A Step changes one file. After each step of a plan the directory is good.
type Step interface{ isStep() }

// Write puts a file in place, or in the place of another.
type Write struct {
	Name string
	Data []byte
	// Was are the bytes that it replaces; nil if there was no file.
	Was []byte
}

// Rename renames a file.
type Rename struct {
	From, To string
	// Was is what it has to hold still. Nil: anything.
	Was []byte
}

// Delete deletes a file.
type Delete struct{ Name string }

func (Write) isStep()  {}
func (Rename) isStep() {}
func (Delete) isStep() {}

// ErrNoNetwork reports a directory in which there is no configuration.
var ErrNoNetwork = errors.New("there is no network configuration yet")

// What a runtime takes for a configuration of one plugin cannot hold a second
// entry. A list takes its place. Its name sorts right behind that of the file
// it stands for, so that it is chosen once that is put aside, and it is nobody
// else's; the name of what is put aside has an end that no runtime reads.
const (
	listSuffix  = "-mesh-cni.conflist"
	asideSuffix = ".mesh-cni-aside"
)

// IsConfig reports whether runtimes read a file of this name (go-cni and
// ocicni: libcni.ConfFiles with these extensions, names with a leading dot
// included).
func IsConfig(name string) bool {
	switch filepath.Ext(name) {
	case ".conf", ".conflist", ".json":
		return true
	}
	return false
}

// relevant reports whether a file of this name matters to a plan.
func relevant(name string) bool { return IsConfig(name) || strings.HasSuffix(name, asideSuffix) }

// Primary returns the name of the file that a runtime takes for the pods'
// network: the first of those it reads, in the order of bytes. Empty: there is
// none.
func Primary(files map[string]File) string {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if IsConfig(name) {
			return name
		}
	}
	return ""
}

// Install returns the steps after which the entry is the last of the primary
// network's list, and that file's name. No steps: it is so already.
func Install(files map[string]File, e Entry) (primary string, steps []Step, err error) {
	primary = Primary(files)
	if primary == "" {
		return "", nil, ErrNoNetwork
	}
	steps, err = install(files, primary, e)
	if err != nil {
		return primary, nil, fmt.Errorf("%s: %w", primary, err)
	}
	return primary, steps, nil
}

func install(files map[string]File, primary string, e Entry) ([]Step, error) {
	f := files[primary]
	if f.Err != nil {
		return nil, f.Err
	}
	if strings.HasSuffix(primary, ".conflist") {
		with, err := Insert(f.Data, e)
		if err != nil || bytes.Equal(with, f.Data) {
			return nil, err
		}
		return []Step{Write{primary, with, f.Data}}, nil
	}
	list, err := Wrap(f.Data)
	if err == nil {
		list, err = Insert(list, e)
	}
	if err != nil {
		return nil, err
	}
	name := primary + listSuffix
	after := maps.Clone(files)
	delete(after, primary)
	after[name] = File{Data: list}
	if first := Primary(after); first != name {
		return nil, fmt.Errorf("a list in its place, %s, would come behind %s; rename that file", name, first)
	}
	var steps []Step
	if before, ok := files[name]; !ok || !bytes.Equal(before.Data, list) {
		steps = append(steps, Write{name, list, before.Data})
	}
	return append(steps, Rename{From: primary, To: primary + asideSuffix, Was: f.Data}), nil
}

// Uninstall returns the steps that take the entry out of every file. Files
// that are broken, and cannot have it, are passed over.
func Uninstall(files map[string]File, pluginType string) (steps []Step, err error) {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(files)) {
		f := files[name]
		original, converted := strings.CutSuffix(name, listSuffix)
		if set, aside := strings.CutSuffix(name, asideSuffix); aside {
			// Of a list that is there, or was before the file itself came back.
			if _, ok := files[set+listSuffix]; !ok {
				if _, back := files[set]; back {
					steps = append(steps, Delete{name})
				} else {
					steps = append(steps, Rename{From: name, To: set})
				}
			}
			continue
		}
		if f.Err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, f.Err))
			continue
		}
		if converted {
			aside, kept := files[original+asideSuffix]
			_, back := files[original]
			switch {
			case back && kept:
				steps = append(steps, Delete{name}, Delete{original + asideSuffix})
				continue
			case back:
				steps = append(steps, Delete{name})
				continue
			case kept && aside.Err == nil:
				steps = append(steps, Rename{From: original + asideSuffix, To: original}, Delete{name})
				continue
			}
			// What it stood for is lost: it stays, without our entry.
		}
		if !strings.HasSuffix(name, ".conflist") {
			continue
		}
		without, err := Remove(f.Data, pluginType)
		switch {
		case err != nil && bytes.Contains(f.Data, []byte(pluginType)):
			errs = append(errs, fmt.Errorf("%s: %w; take %s out of it by hand", name, err, pluginType))
		case err != nil || bytes.Equal(without, f.Data):
		default:
			steps = append(steps, Write{name, without, f.Data})
		}
	}
	return steps, errors.Join(errs...)
}

// Holding returns the names of the lists that have an entry of a type.
func Holding(files map[string]File, pluginType string) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if IsConfig(name) && slices.Contains(Types(files[name].Data), pluginType) {
			names = append(names, name)
		}
	}
	return names
}
