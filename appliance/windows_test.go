package appliance

import (
	"testing"

	"rescuebox/images"
)

func TestWindowsAgentName(t *testing.T) {
	withDLL := []string{"netstart.exe", "bcryptprimitives.dll"}
	for _, c := range []struct {
		image images.Image
		want  string
	}{
		{images.Image{Arch: "amd64", Windows: &images.WindowsPE{Build: "6.1.7601", DaRT: "7"}}, "rescue-agent-windows-legacy-amd64.exe"},
		{images.Image{Arch: "amd64", Windows: &images.WindowsPE{Build: "10.0.19041", DaRT: "10", Has: withDLL}}, "rescue-agent-windows-legacy-amd64.exe"},
		{images.Image{Arch: "i386", Windows: &images.WindowsPE{Build: "6.3.9600"}}, "rescue-agent-windows-legacy-386.exe"},
		{images.Image{Arch: "amd64", Windows: &images.WindowsPE{Build: "10.0.26100", Has: withDLL}}, "rescue-agent-windows-amd64.exe"},
		{images.Image{Arch: "i386", Windows: &images.WindowsPE{Build: "10.0.19041", Has: withDLL}}, "rescue-agent-windows-386.exe"},
		{images.Image{Arch: "amd64", Windows: &images.WindowsPE{Build: "10.0.26100"}}, "rescue-agent-windows-legacy-amd64.exe"},
		{images.Image{Arch: "amd64", Windows: &images.WindowsPE{Has: withDLL}}, "rescue-agent-windows-legacy-amd64.exe"},
		{images.Image{Arch: "arm64", Windows: &images.WindowsPE{Build: "10.0.26100"}}, "rescue-agent-windows-arm64.exe"},
	} {
		if got := windowsAgentName(c.image); got != c.want {
			t.Errorf("%s %+v: %s, want %s", c.image.Arch, *c.image.Windows, got, c.want)
		}
	}
}
