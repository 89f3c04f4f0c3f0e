package rescue

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// The recipe: everything in it is a readable file in this folder.
//
//go:embed packages.txt exclude.txt modules.txt links.txt initramfs root
var recipe embed.FS

// lines reads a list of the recipe without its comments.
func lines(name string) ([]string, error) {
	b, err := recipe.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var list []string
	for _, l := range strings.Split(string(b), "\n") {
		if l = strings.TrimSpace(l); l != "" && !strings.HasPrefix(l, "#") {
			list = append(list, l)
		}
	}
	return list, nil
}

// packages lists the packages of one architecture.
func packages(arch string) ([]string, error) {
	list, err := lines("packages.txt")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, l := range list {
		name, only, limited := strings.Cut(l, " [")
		if !limited || strings.TrimSuffix(only, "]") == arch {
			names = append(names, name)
		}
	}
	return names, nil
}

// patterns is an ordered list of patterns in which * matches slashes too. The
// last one that matches decides; those with ! say no.
type patterns []string

func (p patterns) match(name string) bool {
	for i := len(p) - 1; i >= 0; i-- {
		pattern, no := strings.CutPrefix(p[i], "!")
		if wildcard(pattern, name) {
			return !no
		}
	}
	return false
}

// wildcard matches a pattern whose only special character is *.
func wildcard(pattern, name string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == name
	}
	name, ok := strings.CutPrefix(name, parts[0])
	if !ok {
		return false
	}
	for _, part := range parts[1 : len(parts)-1] {
		i := strings.Index(name, part)
		if i < 0 {
			return false
		}
		name = name[i+len(part):]
	}
	return strings.HasSuffix(name, parts[len(parts)-1])
}

// addRecipe puts the files below one folder of the recipe into a tree. What
// starts with "#!" is executable.
func addRecipe(t *tree, folder string) error {
	return fs.WalkDir(recipe, folder, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := recipe.ReadFile(name)
		if err != nil {
			return err
		}
		mode := int64(0o644)
		if strings.HasPrefix(string(b), "#!") {
			mode = 0o755
		}
		t.addFile(strings.TrimPrefix(name, folder+"/"), mode, b)
		return nil
	})
}

// addLinks puts the links of the recipe into a tree.
func addLinks(t *tree) error {
	list, err := lines("links.txt")
	if err != nil {
		return err
	}
	for _, l := range list {
		words := strings.Fields(l)
		if len(words) != 2 || path.IsAbs(words[0]) {
			return fmt.Errorf("links.txt: %q is not a link and what it points to", l)
		}
		t.addLink(words[0], words[1])
	}
	return nil
}
