package rescue

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// initramfs makes the tree of the initramfs from that of the packages.
func initramfs(packages *tree, version string, agent []byte) (*tree, error) {
	t := &tree{entries: map[string]*entry{}}
	if err := addRecipe(t, "initramfs"); err != nil {
		return nil, err
	}
	busybox, err := packages.read("usr/bin/busybox")
	if err != nil {
		return nil, err
	}
	t.addFile("bin/busybox", 0o755, busybox)
	t.addFile("bin/rescue-agent", 0o755, agent)
	t.addLink("bin/sh", "busybox")
	t.addLink("sbin", "bin") // the kernel itself calls /sbin/modprobe
	for _, dir := range []string{"dev", "proc", "sys", "run", "mnt", "newroot"} {
		t.addDir(dir, 0o755)
	}
	return t, addModules(t, packages, version)
}

// addModules adds the modules of the recipe, those they need, and the two
// indexes that busybox modprobe reads.
func addModules(t, packages *tree, version string) error {
	want, err := lines("modules.txt")
	if err != nil {
		return err
	}
	from := "usr/lib/modules/" + version
	m, err := readModules(packages, from)
	if err != nil {
		return err
	}
	chosen := m.choose(want)
	to := "lib/modules/" + version
	for _, mod := range chosen {
		e := packages.entries[from+"/"+mod]
		if e == nil || e.data == nil {
			return fmt.Errorf("the kernel package has no module %s", mod)
		}
		t.addData(to+"/"+mod, 0o644, e.data)
	}
	t.addFile(to+"/modules.dep", 0o644, m.depFile(chosen))
	t.addFile(to+"/modules.alias", 0o644, m.aliasFile(chosen))
	return nil
}

// modules is what depmod found out about the modules of a kernel. Paths are
// relative to the kernel's module folder: kernel/drivers/….
type modules struct {
	needs   map[string][]string // path → paths
	byName  map[string][]string // module name or plain alias → paths
	aliases []string            // lines of modules.alias
}

func readModules(packages *tree, dir string) (*modules, error) {
	var files [3][]byte
	for i, name := range []string{"modules.dep", "modules.alias", "modules.softdep"} {
		b, err := packages.read(dir + "/" + name)
		if err != nil {
			return nil, err
		}
		files[i] = b
	}
	m := &modules{needs: map[string][]string{}, byName: map[string][]string{}}
	for line := range strings.Lines(string(files[0])) {
		mod, needs, _ := strings.Cut(line, ":")
		m.needs[mod] = strings.Fields(needs)
		m.byName[moduleName(mod)] = append(m.byName[moduleName(mod)], mod)
	}
	for line := range strings.Lines(string(files[1])) {
		if w := strings.Fields(line); len(w) == 3 && w[0] == "alias" {
			m.aliases = append(m.aliases, strings.TrimSpace(line))
			m.byName[w[1]] = append(m.byName[w[1]], m.byName[w[2]]...)
		}
	}
	m.addSoft(string(files[2]))
	return m, nil
}

// addSoft makes needs of soft dependencies ("softdep r8169 pre: realtek"):
// busybox modprobe does not read them, and without its PHY driver such a card
// has no link.
func (m *modules) addSoft(text string) {
	for line := range strings.Lines(text) {
		w := strings.Fields(line)
		if len(w) < 4 || w[0] != "softdep" || w[2] != "pre:" {
			continue
		}
		for _, mod := range m.byName[strings.ReplaceAll(w[1], "-", "_")] {
			for _, name := range w[3:] {
				if strings.HasSuffix(name, ":") {
					break
				}
				m.needs[mod] = append(m.needs[mod], m.byName[strings.ReplaceAll(name, "-", "_")]...)
			}
		}
	}
}

// moduleName is the name the kernel gives a module file.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// choose finds the modules that patterns want, and all that those need.
func (m *modules) choose(want patterns) []string {
	in := map[string]bool{}
	for mod := range m.needs {
		if want.match(strings.TrimPrefix(mod, "kernel/")) {
			m.closure(mod, in)
		}
	}
	var list []string
	for mod := range in {
		list = append(list, mod)
	}
	slices.Sort(list)
	return list
}

func (m *modules) closure(mod string, in map[string]bool) {
	if in[mod] {
		return
	}
	in[mod] = true
	for _, n := range m.needs[mod] {
		m.closure(n, in)
	}
}

// depFile writes modules.dep for the chosen modules. A module's line lists all
// that it needs, directly or not, each after the ones that need it, as depmod writes it.
func (m *modules) depFile(chosen []string) []byte {
	var b []byte
	for _, mod := range chosen {
		b = append(b, mod...)
		b = append(b, ':')
		for _, n := range m.order(mod) {
			b = append(b, ' ')
			b = append(b, n...)
		}
		b = append(b, '\n')
	}
	return b
}

// order lists what a module needs so that loading from the end to the front works.
func (m *modules) order(mod string) []string {
	var list []string
	seen := map[string]bool{mod: true}
	var visit func(string)
	visit = func(n string) {
		if seen[n] {
			return
		}
		seen[n] = true
		for _, deeper := range m.needs[n] {
			visit(deeper)
		}
		list = append(list, n)
	}
	for _, n := range m.needs[mod] {
		visit(n)
	}
	slices.Reverse(list)
	return list
}

// aliasFile keeps the lines of modules.alias that lead to chosen modules.
func (m *modules) aliasFile(chosen []string) []byte {
	names := map[string]bool{}
	for _, mod := range chosen {
		names[moduleName(mod)] = true
	}
	var b []byte
	for _, line := range m.aliases {
		if names[line[strings.LastIndexByte(line, ' ')+1:]] {
			b = append(append(b, line...), '\n')
		}
	}
	return b
}
