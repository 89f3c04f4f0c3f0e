package appliance

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"rescuebox/images"
)

// goArch are Go's names of what Debian calls otherwise.
var goArch = map[string]string{"i386": "386"}

// windowsAgent is the rescue agent for a Windows image, from beside this
// program, else from where the package puts it.
func windowsAgent(i images.Image) ([]byte, error) {
	name := windowsAgentName(i)
	dirs := []string{"/usr/lib/rescuebox"}
	if self, err := os.Executable(); err == nil {
		dirs = slices.Insert(dirs, 0, filepath.Dir(self))
	}
	for _, dir := range dirs {
		program, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			return program, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read the agent for %s: %w", i.Name, err)
		}
	}
	return nil, fmt.Errorf("there is no agent %s for %s in %s: install the package rescuebox again, or build it as scripts/package does", name, i.Name, strings.Join(dirs, " or "))
}

// windowsAgentName picks the build. The legacy one, made with Go 1.20, runs on every
// Windows since 7 and does all that DaRT needs. The current one brings SSH to a plain
// Windows PE that it runs in.
func windowsAgentName(i images.Image) string {
	arch := i.Arch
	if other, ok := goArch[arch]; ok {
		arch = other
	}
	if i.Windows.SSH() || arch == "arm64" { // Go 1.20 and Windows PE for arm64 never met
		return "rescue-agent-windows-" + arch + ".exe"
	}
	return "rescue-agent-windows-legacy-" + arch + ".exe"
}
