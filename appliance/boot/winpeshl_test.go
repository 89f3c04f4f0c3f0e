package boot

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf16"

	"rescuebox/images"
)

var (
	dartHas  = []string{"netstart.exe", "wpeinit.exe", "waitforconnection.exe", "remoterecovery.exe", "startnet.cmd", "cmd.exe", "wpeutil.exe", "recenv.exe"}
	plainHas = []string{"wpeinit.exe", "startnet.cmd", "cmd.exe", "wpeutil.exe", "bcryptprimitives.dll"}
)

// shells are images and what the order has them start, line by line.
var shells = []struct {
	name string
	pe   images.WindowsPE
	none bool // there is no agent
	want []string
}{
	{name: "DaRT 10 without a file of its own: Microsoft's recipe, with the agent in the place of RemoteRecovery",
		pe:   images.WindowsPE{DaRT: "10", Has: dartHas},
		want: []string{lineNetstart, lineAgent, lineWait, lineRecenv}},
	{name: "DaRT 10 as its wizard makes it: the question is not asked, the menu waits for the admin",
		pe:   images.WindowsPE{DaRT: "10", Has: dartHas, Winpeshl: "[LaunchApps]\r\n\"%windir%\\system32\\netstart.exe -prompt\"\r\n\"%SYSTEMDRIVE%\\sources\\recovery\\recenv.exe\"\r\n"},
		want: []string{lineNetstart, lineAgent, lineWait, lineRecenv}},
	{name: "DaRT 8.1 with the recipe in it already: nothing twice",
		pe:   images.WindowsPE{DaRT: "8.1", Has: dartHas, Winpeshl: "[LaunchApps]\n" + lineNetstart + "\n" + lineRemote + "\n" + lineWait + "\n" + lineRecenv + "\n"},
		want: []string{lineNetstart, lineAgent, lineWait, lineRecenv}},
	{name: "DaRT 7 without WaitForConnection",
		pe:   images.WindowsPE{DaRT: "7", Has: []string{"netstart.exe", "remoterecovery.exe", "recenv.exe"}},
		want: []string{lineNetstart, lineAgent, lineRecenv}},
	{name: "DaRT whose netstart is missing",
		pe:   images.WindowsPE{DaRT: "yes", Has: []string{"wpeinit.exe", "remoterecovery.exe", "cmd.exe"}},
		want: []string{lineWpeinit, lineAgent, lineShell}},
	{name: "DaRT with a menu of the admin's own, which nothing keeps back",
		pe:   images.WindowsPE{DaRT: "10", Has: dartHas, Winpeshl: "\ufeff[LaunchApps]\r\n; ours\r\n\r\n%windir%\\system32\\NETSTART.EXE, -network\r\ncmd /c start REMOTERECOVERY -nomessage\r\n%SYSTEMDRIVE%\\Tools\\menu.exe, /full \"C:\\Program Files\\x\"\r\n"},
		want: []string{lineNetstart, lineAgent, `%SYSTEMDRIVE%\Tools\menu.exe, /full "C:\Program Files\x"`}},
	{name: "DaRT without an agent: the ticket is on its screen at least", none: true,
		pe:   images.WindowsPE{DaRT: "10", Has: dartHas},
		want: []string{lineNetstart, lineRemote, lineWait, lineRecenv}},
	{name: "plain Windows PE",
		pe:   images.WindowsPE{Has: plainHas},
		want: []string{lineWpeinit, lineAgent, lineStartnet}},
	{name: "plain Windows PE with its own file: wpeinit alone is not run again, a script that has it is",
		pe:   images.WindowsPE{Has: plainHas, Winpeshl: "[LaunchApps]\nwpeinit\n%SYSTEMROOT%\\System32\\bginfo.exe, /timer:0\ncmd /c wpeinit & x.cmd\n"},
		want: []string{lineWpeinit, lineAgent, `%SYSTEMROOT%\System32\bginfo.exe, /timer:0`, `cmd /c wpeinit & x.cmd`, lineShell}},
	{name: "one program by AppPath",
		pe:   images.WindowsPE{Has: plainHas, Winpeshl: "[LaunchApp]\r\nAppPath = %SYSTEMDRIVE%\\Fabrikam\\shell.exe\r\n"},
		want: []string{lineWpeinit, lineAgent, `%SYSTEMDRIVE%\Fabrikam\shell.exe`, lineShell}},
	{name: "plain Windows PE that ends in a shell of its own",
		pe:   images.WindowsPE{Has: plainHas, Winpeshl: "[LaunchApps]\nbginfo.exe\nX:\\Windows\\System32\\CMD.EXE, /K menu.cmd\n"},
		want: []string{lineWpeinit, lineAgent, "bginfo.exe", `X:\Windows\System32\CMD.EXE, /K menu.cmd`}},
	{name: "sections in any case, and others",
		pe:   images.WindowsPE{Has: plainHas, Winpeshl: "[Other]\nx.exe\n[LAUNCHAPPS]\na.exe\n[launchapp]\napppath=b.exe\nother=c.exe\n"},
		want: []string{lineWpeinit, lineAgent, "a.exe", "b.exe", lineShell}},
	{name: "a setup medium starts its setup, after the agent",
		pe:   images.WindowsPE{Has: append([]string{"setup.exe"}, plainHas...)},
		want: []string{lineWpeinit, lineAgent, lineSetup, lineShell}},
	{name: "a deployment's PE: its wizard, which wpeinit starts, does not keep the agent waiting",
		pe:   images.WindowsPE{Has: append([]string{"unattend.xml"}, plainHas...), Winpeshl: "[LaunchApps]\n%SYSTEMROOT%\\System32\\bddrun.exe,/bootstrap\n"},
		want: []string{lineNetwork, lineAgent, `%SYSTEMROOT%\System32\bddrun.exe,/bootstrap`, lineShell}},
	{name: "an unattend.xml that wpeinit alone would run",
		pe:   images.WindowsPE{Has: append([]string{"unattend.xml"}, plainHas...), Winpeshl: "[LaunchApps]\nwpeinit.exe\n"},
		want: []string{lineNetwork, lineAgent, "wpeinit.exe", lineShell}},
	{name: "an unattend.xml where nothing else brings up the network",
		pe:   images.WindowsPE{Has: []string{"unattend.xml", "wpeinit.exe"}},
		want: []string{lineWpeinit, lineAgent, lineShell}},
	{name: "a PE with wpeutil alone",
		pe:   images.WindowsPE{Has: []string{"wpeutil.exe"}},
		want: []string{lineNetwork, lineAgent, lineShell}},
	{name: "a PE of which nothing is known",
		want: []string{lineAgent, lineShell}},
}

func TestWinpeshl(t *testing.T) {
	for _, tt := range shells {
		want := "[LaunchApps]\r\n" + strings.Join(tt.want, "\r\n") + "\r\n"
		if got := string(winpeshl(tt.pe, !tt.none)); got != want {
			t.Errorf("%s:\ngot  %q\nwant %q", tt.name, got, want)
		}
	}
}

// What is ours is never longer than a command may be, and waits for no key.
func TestWinpeshlLines(t *testing.T) {
	for _, line := range []string{lineNetstart, lineWpeinit, lineNetwork, lineAgent, lineRemote, lineWait, lineRecenv, lineSetup, lineStartnet, lineShell} {
		if len(line) > 250 || strings.Contains(line, "-prompt") || strings.Count(line, `"`)%2 != 0 {
			t.Errorf("%q", line)
		}
	}
}

// A name that is not ASCII arrives at Windows as it was.
func TestWinpeshlUnicode(t *testing.T) {
	got := winpeshl(images.WindowsPE{Winpeshl: "[LaunchApps]\nX:\\Wärter.exe\n"}, true)
	if len(got) < 4 || got[0] != 0xff || got[1] != 0xfe {
		t.Fatalf("% x: no UTF-16", got[:min(len(got), 4)])
	}
	var units []uint16
	for i := 2; i+1 < len(got); i += 2 {
		units = append(units, uint16(got[i])|uint16(got[i+1])<<8)
	}
	if text := string(utf16.Decode(units)); !strings.Contains(text, "\r\nX:\\Wärter.exe\r\n") {
		t.Errorf("%q", text)
	}
}

// Nor is one in a code page changed, whichever that is.
func TestWinpeshlCodePage(t *testing.T) {
	name := []rune(`X:\????.exe`)
	for i, b := range []byte{0xcf, 0xf3, 0xf1, 0xea} { // of Windows-1251
		name[3+i] = images.CodePage + rune(b)
	}
	got := winpeshl(images.WindowsPE{Winpeshl: "[LaunchApps]\n" + string(name) + "\n"}, true)
	if !bytes.Contains(got, []byte("\r\nX:\\\xcf\xf3\xf1\xea.exe\r\n")) || got[0] != '[' {
		t.Errorf("%q", got)
	}
}

func FuzzWinpeshl(f *testing.F) {
	for _, tt := range shells {
		f.Add(tt.pe.Winpeshl, tt.pe.DaRT != "")
	}
	f.Fuzz(func(t *testing.T, own string, dart bool) {
		pe := images.WindowsPE{Winpeshl: own, Has: dartHas}
		if dart {
			pe.DaRT = "10"
		}
		lines := append(networkLines(pe), ownLines(pe)...)
		if len(lines) < 2 || len(lines) > maxShellLines+4 {
			t.Fatalf("%d lines", len(lines))
		}
		for _, line := range lines {
			if strings.ContainsAny(line, "\r\n\x00") || line == "" {
				t.Fatalf("line %q", line)
			}
			if dart && strings.Contains(strings.ToLower(line), `\remoterecovery.exe"`) {
				t.Fatalf("twice: %q", line)
			}
		}
	})
}

func networkLines(pe images.WindowsPE) []string { return []string{networkLine(pe)} }
