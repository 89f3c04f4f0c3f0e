package boot

import (
	"encoding/binary"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"rescuebox/images"
)

// Files of an order in \Windows\System32.
const (
	winpeshlName    = "winpeshl.ini"
	agentName       = "rescue-agent.exe"
	agentConfigName = "rescue-agent.json"
)

// Lines of a winpeshl.ini. Microsoft writes them in two ways: a program, a comma and
// its options (Windows PE), and for DaRT the whole command in quotes, which is kept for
// DaRT's own programs. They run one after the other, each when the one before has ended;
// with the last Windows PE ends, so that a menu or a shell must be there.
const (
	lineNetstart  = `"%windir%\system32\netstart.exe -network -remount"` // without options it asks two questions
	lineWpeinit   = `%SYSTEMROOT%\system32\wpeinit.exe`
	lineNetwork   = `%SYSTEMROOT%\system32\wpeutil.exe, InitializeNetwork`
	lineAgent     = `%SYSTEMROOT%\system32\` + agentName + `, start` // ends when the ticket is there, or after a minute
	lineRemote    = `"cmd /C start %windir%\system32\RemoteRecovery.exe -nomessage"`
	lineWait      = `"%windir%\system32\WaitForConnection.exe"`
	lineRecenv    = `"%SYSTEMDRIVE%\sources\recovery\recenv.exe"`
	lineSetup     = `%SYSTEMDRIVE%\setup.exe`
	lineStartnet  = `%SYSTEMROOT%\system32\cmd.exe, /k startnet.cmd`
	lineShell     = `%SYSTEMROOT%\system32\cmd.exe, /k`
	maxShellLines = 100 // of an image's own winpeshl.ini
)

// winpeshl is the winpeshl.ini of an order: the network, the agent, and then
// what the image would have started without us, but nothing twice. It asks nobody anything.
// Without an agent on DaRT it starts Remote Connection itself, so that at least a ticket is on the screen.
func winpeshl(w images.WindowsPE, agent bool) []byte {
	lines := []string{networkLine(w)}
	switch {
	case agent:
		lines = append(lines, lineAgent)
	case w.DaRT != "":
		lines = append(lines, lineRemote)
	}
	lines = append(lines, ownLines(w)...)
	lines = slices.DeleteFunc(lines, func(line string) bool { return line == "" })
	return iniText("[LaunchApps]\r\n" + strings.Join(lines, "\r\n") + "\r\n")
}

// networkLine brings the network up, or is "" where nothing that could is there. wpeinit.exe would first
// run to its end what an unattend.xml says: that of a deployment is a wizard which waits for somebody. Where
// the image starts wpeinit.exe by itself it does so after the agent.
func networkLine(w images.WindowsPE) string {
	switch {
	case w.DaRT != "" && hasProgram(w, "netstart.exe"):
		return lineNetstart
	case hasProgram(w, "wpeinit.exe") && !(hasProgram(w, "unattend.xml") && hasProgram(w, "wpeutil.exe")):
		return lineWpeinit
	case hasProgram(w, "wpeutil.exe"):
		return lineNetwork
	}
	return ""
}

// ownLines is what the image starts by itself: what its winpeshl.ini says, else what Windows PE does
// without one. WaitForConnection.exe keeps DaRT's menu from the local person until
// the admin is there; it comes before the menu, as in Microsoft's recipe.
func ownLines(w images.WindowsPE) []string {
	lines := launched(w.Winpeshl)
	lines = slices.DeleteFunc(lines, func(line string) bool { return again(w, line) })
	if len(lines) == 0 {
		lines = shellLines(w)
	}
	menu := slices.IndexFunc(lines, func(line string) bool { return names(line, "recenv.exe") })
	waits := slices.ContainsFunc(lines, func(line string) bool { return names(line, "waitforconnection.exe") })
	if w.DaRT != "" && hasProgram(w, "waitforconnection.exe") && menu >= 0 && !waits {
		lines = slices.Insert(lines, menu, lineWait)
	}
	if w.DaRT == "" && !isShell(lines[len(lines)-1]) {
		lines = append(lines, lineShell) // Windows PE restarts with its last program: not while the admin is in by SSH
	}
	return lines
}

// isShell reports whether a command is one that stays until a person ends it.
func isShell(line string) bool {
	return alone(line, "cmd.exe") || alone(line, "cmd") ||
		(names(line, "cmd.exe") || names(line, "cmd")) && slices.Contains(words(line), "/k")
}

// shellLines is what runs last where the image does not say.
func shellLines(w images.WindowsPE) []string {
	switch {
	case w.DaRT != "" && hasProgram(w, "recenv.exe"):
		return []string{lineRecenv}
	case hasProgram(w, "setup.exe"): // of a setup medium, at the root: Windows PE starts it before startnet.cmd
		return []string{lineSetup}
	case hasProgram(w, "startnet.cmd"):
		return []string{lineStartnet}
	}
	return []string{lineShell}
}

// again reports whether a line of the image's does what ours have done: two of
// Remote Connection have two tickets, and netstart.exe asks questions.
func again(w images.WindowsPE, line string) bool {
	return w.DaRT != "" && (names(line, "remoterecovery.exe") || names(line, "remoterecovery") || names(line, "netstart.exe") || names(line, "netstart")) ||
		networkLine(w) == lineWpeinit && (alone(line, "wpeinit.exe") || alone(line, "wpeinit"))
}

// names reports whether a word of a command is a program, whatever its directory.
func names(line, program string) bool {
	return slices.ContainsFunc(words(line), func(word string) bool { return baseOf(word) == program })
}

// alone reports whether a command is nothing but one program.
func alone(line, program string) bool {
	w := words(line)
	return len(w) == 1 && baseOf(w[0]) == program
}

func words(line string) []string {
	return strings.FieldsFunc(strings.ToLower(line), func(r rune) bool { return strings.ContainsRune(" \t\",;&|()", r) })
}

func baseOf(word string) string { return word[strings.LastIndexAny(word, `\/`)+1:] }

// launched lists the commands of a winpeshl.ini in their order. AppPath of
// [LaunchApp] is one program without options.
func launched(text string) (lines []string) {
	section := ""
	for line := range strings.Lines(strings.TrimPrefix(text, "\ufeff")) {
		line = strings.TrimSpace(strings.Map(printableRune, line))
		key, value, isKey := strings.Cut(line, "=")
		switch {
		case line == "" || line[0] == ';' || len(lines) >= maxShellLines:
		case line[0] == '[':
			section = strings.ToLower(line)
		case section == "[launchapps]":
			lines = append(lines, line)
		case section == "[launchapp]" && isKey && strings.EqualFold(strings.TrimSpace(key), "AppPath"):
			lines = append(lines, strings.TrimSpace(value))
		}
	}
	return slices.DeleteFunc(lines, func(line string) bool { return line == "" })
}

// printableRune drops what would end a line early.
func printableRune(r rune) rune {
	if r < ' ' && r != '\t' || r == 0x7f {
		return -1
	}
	return r
}

// iniText is text as Windows reads it from an .ini: plain ASCII or the bytes of its code page, else UTF-16 with its mark.
func iniText(text string) []byte {
	plain := make([]byte, 0, len(text))
	for _, r := range text {
		if r <= '~' || r > images.CodePage+'~' && r <= images.CodePage+0xff {
			plain = append(plain, byte(r))
		}
	}
	if len(plain) == utf8.RuneCountInString(text) {
		return plain
	}
	b := []byte{0xff, 0xfe}
	for _, u := range utf16.Encode([]rune(text)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}

// hasProgram reports whether the image has a program that its start depends on.
func hasProgram(w images.WindowsPE, name string) bool { return slices.Contains(w.Has, name) }
