package bcd

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What other people's readers of registry files make of our stores.

func tool(t testing.TB, pkg, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("apt-get install %s: %v", pkg, err)
		}
		t.Skipf("apt-get install %s: %v", pkg, err)
	}
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

var site = Store{EFI: true, Loader: `\windows\system32\winload.efi`, WIM: `\boot\525400123456\boot.wim`, SDI: `\boot\525400123456\boot.sdi`,
	BlockSize: 1456, Window: 8, VariableWindow: true, LoadOptions: "RB=0A1B2C", Description: "srv01, Спасение"}

func file(t testing.TB, s Store) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "BCD")
	if err := os.WriteFile(path, s.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// node is a key as hivexml writes it.
type node struct {
	Name   string `xml:"name,attr"`
	Nodes  []node `xml:"node"`
	Values []struct {
		Type     string   `xml:"type,attr"`
		Encoding string   `xml:"encoding,attr"`
		Key      string   `xml:"key,attr"`
		Value    string   `xml:"value,attr"`
		Text     string   `xml:",chardata"`
		Strings  []string `xml:"string"`
	} `xml:"value"`
}

func (n node) values(t testing.TB, path string, into map[string]string) {
	for _, v := range n.Values {
		text := strings.TrimSpace(v.Value + v.Text)
		if v.Encoding == "base64" {
			b, err := base64.StdEncoding.DecodeString(text)
			if err != nil {
				t.Fatal(err)
			}
			text = hex.EncodeToString(b)
		}
		into[path+"/"+v.Key] = fmt.Sprintf("%s:%s", v.Type, text+strings.TrimSuffix(strings.Join(v.Strings, "|"), "|"))
	}
	for _, sub := range n.Nodes {
		sub.values(t, path+"/"+sub.Name, into)
	}
}

// hivex reads every key and value, with its type.
func TestHivexml(t *testing.T) {
	var hive struct {
		Root node `xml:"node"`
	}
	if err := xml.Unmarshal([]byte(tool(t, "libhivex-bin", "hivexml", file(t, site))), &hive); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	hive.Root.values(t, "", got)
	ours := read(t, site.Bytes())
	if len(got) != len(ours) || hive.Root.Name != "NewStoreRoot" {
		t.Errorf("%d values below %s, we wrote %d", len(got), hive.Root.Name, len(ours))
	}
	binary := func(path string) string { return "binary:" + ours[path][2:] }
	for path, want := range map[string]string{
		"/Description/KeyName":            "string:BCD00000001",
		mgr + "Description/Type":          "int32:269484034",
		mgr + "Elements/12000004/Element": "string:Windows Boot Manager",
		mgr + "Elements/23000003/Element": "string:{7619dcc9-fafe-11d9-b411-000476eba25f}",
		mgr + "Elements/24000001/Element": "string-list:{7619dcc9-fafe-11d9-b411-000476eba25f}",
		ram + "Elements/31000003/Element": binary(ram + "Elements/31000003/Element"),
		ram + "Elements/32000004/Element": `string:\boot\525400123456\boot.sdi`,
		ram + "Elements/35000007/Element": "binary:b005000000000000",
		ram + "Elements/35000008/Element": "binary:0800000000000000",
		ram + "Elements/3600000b/Element": "binary:01",
		ldr + "Elements/11000001/Element": binary(ldr + "Elements/11000001/Element"),
		ldr + "Elements/12000002/Element": `string:\windows\system32\winload.efi`,
		ldr + "Elements/12000004/Element": "string:srv01, Спасение",
		ldr + "Elements/12000030/Element": "string:RB=0A1B2C",
		ldr + "Elements/22000002/Element": `string:\windows`,
	} {
		if got[path] != want {
			t.Errorf("%s is %q, want %q", path, got[path], want)
		}
	}
}

// reglookup reads all the same, byte by byte, and libregf checks the structure.
func TestOtherReaders(t *testing.T) {
	site := site
	site.Description = "srv01" // reglookup knows no other letters
	path := file(t, site)
	var lines []string
	for line := range strings.Lines(tool(t, "reglookup", "reglookup", "-H", path)) {
		if !strings.Contains(line, ",KEY,") {
			lines = append(lines, line)
		}
	}
	if ours := read(t, site.Bytes()); len(lines) != len(ours) {
		t.Errorf("reglookup finds %d values, we wrote %d:\n%s", len(lines), len(ours), lines)
	}
	for _, want := range []string{
		`/Description/KeyName,SZ,BCD00000001,`, mgr + "Description/Type,DWORD,0x10100002,", ram + "Description/Type,DWORD,0x30000000,",
		ldr + "Description/Type,DWORD,0x10200003,", ram + `Elements/32000004/Element,SZ,\boot\525400123456\boot.sdi,`,
		ram + `Elements/35000007/Element,BINARY,%B0%05%00%00%00%00%00%00,`, ldr + "Elements/26000022/Element,BINARY,%01,",
	} {
		if !strings.Contains(strings.Join(lines, ""), want+"\n") {
			t.Errorf("reglookup does not read %s in\n%s", want, strings.Join(lines, ""))
		}
	}
	if out := tool(t, "libregf-utils", "regfinfo", path); strings.Count(out, "(value: 0)") != len(lines) || strings.Contains(strings.ToLower(out), "corrupt") {
		t.Errorf("regfinfo:\n%s", out)
	}
	out := tool(t, "libregf-utils", "regfexport", path)
	// (Its 2020 release shows one byte that is stored inline as 0, whoever wrote the hive.)
	if strings.Count(out, "Value: 0 Element") != len(lines)-4 || !strings.Contains(out, `\windows\system32\winload.efi`) {
		t.Errorf("regfexport:\n%s", out)
	}
}

// Somebody else's program changes a store and commits: the hive is one that can be worked with.
func TestHivexshEdits(t *testing.T) {
	site := site
	site.Description = "srv01"
	path := file(t, site)
	script := filepath.Join(t.TempDir(), "script")
	err := os.WriteFile(script, []byte(`cd \Objects\{7619dcc9-fafe-11d9-b411-000476eba25f}\Elements
add 12000099
cd 12000099
setval 1
Element
string:changed
commit
`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	tool(t, "libhivex-bin", "hivexsh", "-w", "-f", script, path)
	out := tool(t, "reglookup", "reglookup", "-H", path)
	if !strings.Contains(out, ldr+"Elements/12000099/Element,SZ,changed,") {
		t.Errorf("the new element is not there:\n%s", out)
	}
	before := tool(t, "reglookup", "reglookup", "-H", file(t, site))
	var missing []string
	for line := range strings.Lines(before) {
		if !strings.Contains(line, ",KEY,") && !strings.Contains(out, line) {
			missing = append(missing, line)
		}
	}
	if diff := cmp.Diff([]string(nil), missing); diff != "" {
		t.Error("lost by the change:\n", diff)
	}
}
