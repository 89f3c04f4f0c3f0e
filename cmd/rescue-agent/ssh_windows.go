//go:build go1.26

package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/registry"

	"rescuebox/cmd/rescue-agent/sshd"
)

const (
	sshUser = "admin" // any name will do: it is the key that counts
	sshPort = 22
)

// sshPE is a Windows PE that is reached by SSH.
type sshPE struct {
	addresses func() []string
	server    *sshd.Server
	serve     func(net.Listener) // in the background
	serving   bool
}

// serveSSH lets the admins in, and reports that to the box as the Linux rescue
// system does. Without keys there is no server.
func (m *pe) serveSSH(ctx context.Context, box boxClient, say *sayer) {
	if box.order.Server == nil {
		return // nobody gives keys
	}
	host, err := newHostKey()
	if err != nil {
		say.tell("there is no SSH: " + err.Error())
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	p := &sshPE{
		addresses: func() []string { return addresses(m.server()) },
		server: &sshd.Server{
			HostKey: host, Keys: &sshd.Keys{}, System: sshd.Cmd{Dir: string(m.system32)}, Event: say.screen.line,
			Home: "/" + strings.ToUpper(filepath.VolumeName(windowsDir())) + "/",
		},
	}
	p.serve = func(l net.Listener) {
		wg.Go(func() {
			if err := p.server.Serve(ctx, l); err != nil {
				say.tell("SSH no longer serves: " + err.Error())
			}
		})
	}
	a := &agent{
		boxClient: box, system: p, keep: p.keep, out: io.Discard, console: say.screen,
		local: "Whoever stands here has Windows' own window for commands.",
		poll:  5 * time.Second, minDelay: time.Second, maxDelay: 30 * time.Second,
	}
	a.run(ctx)
}

// keep takes the admins' keys, and with the first of them begins to serve: a port
// that is open before the box has the report is there when the admin comes.
func (p *sshPE) keep(text []byte) error {
	if p.server.Keys.Set(text) == 0 {
		return errors.New("none of them is one that this system takes")
	}
	if p.serving {
		return nil
	}
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", sshPort))
	if err != nil {
		return err
	}
	p.serving = true
	p.serve(l)
	return nil
}

// newHostKey is made for each boot: the box tells the admin which one it is.
func newHostKey() (ssh.Signer, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return ssh.NewSignerFromKey(key)
}

func (p *sshPE) Addresses() []string { return p.addresses() }

// Ready is true: without keys there is nothing to wait for, and the admin shall
// hear of this machine nevertheless. With them, the agent has them kept first.
func (p *sshPE) Ready() bool { return true }

// Facts is what the box is told of this machine.
func (p *sshPE) Facts() (report, error) {
	v := windows.RtlGetVersion()
	version := fmt.Sprintf("%d.%d.%d", v.MajorVersion, v.MinorVersion, v.BuildNumber)
	hostname, _ := os.Hostname()
	host := p.server.HostKey.PublicKey()
	r := report{
		Kind: "ssh", User: sshUser, Port: sshPort, Hostname: hostname,
		System: "Windows PE " + version, Kernel: version, SecureBoot: secureBoot(),
		HostKeys:     []string{ssh.FingerprintSHA256(host)},
		HostKeyLines: []string{strings.TrimSpace(string(ssh.MarshalAuthorizedKey(host)))},
	}
	r.Serial, r.UUID = smbios(firmwareTable())
	return r, nil
}

// secureBoot reads what Windows found; the key is there on UEFI only.
func secureBoot() string {
	k, err := registry.OpenKey(registry.LOCAL_MACHINE, `SYSTEM\CurrentControlSet\Control\SecureBoot\State`, registry.QUERY_VALUE)
	if err != nil {
		return ""
	}
	defer k.Close()
	switch on, _, err := k.GetIntegerValue("UEFISecureBootEnabled"); {
	case err != nil:
		return ""
	case on == 1:
		return "enabled"
	}
	return "disabled"
}
