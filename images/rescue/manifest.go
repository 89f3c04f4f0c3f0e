package rescue

import (
	"fmt"
	"slices"
	"strings"
)

// manifest lists the installed packages of a dpkg status file: name, version,
// architecture, source and its version. Whoever gets the image can get the sources by it.
func manifest(status []byte) string {
	var list []string
	for _, para := range strings.Split(string(status), "\n\n") {
		f := fields(para)
		if !strings.HasSuffix(f["Status"], " installed") {
			continue
		}
		source, version, own := strings.Cut(f["Source"], " (")
		if source == "" {
			source = f["Package"]
		}
		version = strings.TrimSuffix(version, ")")
		if !own {
			version = f["Version"]
		}
		list = append(list, fmt.Sprintf("%s %s %s source %s %s\n", f["Package"], f["Version"], f["Architecture"], source, version))
	}
	slices.Sort(list)
	return strings.Join(list, "")
}

// fields reads the first lines of the fields of one paragraph.
func fields(para string) map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(para) {
		if key, value, ok := strings.Cut(line, ":"); ok && !strings.HasPrefix(line, " ") {
			m[key] = strings.TrimSpace(value)
		}
	}
	return m
}
