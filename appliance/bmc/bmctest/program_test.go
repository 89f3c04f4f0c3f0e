package bmctest

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The program calls the machine's command in the order that a start needs.
func TestCommand(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "chassis")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho \"$@\" >>"+dir+"/log\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	r, err := New("sushy")
	if err != nil {
		t.Fatal(err)
	}
	r.User, r.Machine = "", Command{script, "vm1"}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Serve(ctx, l) }()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	send := func(method, path, body string) {
		t.Helper()
		req, _ := http.NewRequest(method, "https://"+l.Addr().String()+path, strings.NewReader(body))
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusNoContent {
			t.Errorf("%s %s: %s", method, path, resp.Status)
		}
	}
	system := r.System()
	send("PATCH", system, `{"Boot":{"BootSourceOverrideEnabled":"Once","BootSourceOverrideTarget":"Pxe"}}`)
	send("POST", r.Drive()+"/Actions/VirtualMedia.InsertMedia", `{"Image":"http://192.0.2.1/rescue.iso"}`)
	send("POST", system+"/Actions/ComputerSystem.Reset", `{"ResetType":"On"}`)
	send("POST", system+"/Actions/ComputerSystem.Reset", `{"ResetType":"ForceRestart"}`)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	want := "vm1 set boot pxe\nvm1 set cd http://192.0.2.1/rescue.iso\nvm1 set power 1\n" +
		"vm1 set power 0\nvm1 set boot none\nvm1 set cd http://192.0.2.1/rescue.iso\nvm1 set power 1\n"
	if log, _ := os.ReadFile(filepath.Join(dir, "log")); string(log) != want {
		t.Errorf("the machine was told:\n%s", log)
	}
}
