package bmc

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	peer "github.com/bougou/go-ipmi/pkg/bmc"
	"github.com/bougou/go-ipmi/pkg/hal/mock"
	"github.com/bougou/go-ipmi/pkg/handlers"
	"github.com/bougou/go-ipmi/pkg/server"
	"github.com/bougou/go-ipmi/pkg/transport/udp"
	"github.com/bougou/go-ipmi/pkg/types"
)

// startSupermicro is a controller that knows Supermicro's command for its network port and
// answers it with mode; below 0 it does not know it. ipmi_sim has no maker's commands.
func startSupermicro(t *testing.T, mode *atomic.Int32) (port int) {
	t.Helper()
	b := peer.New(peer.DeviceInfo{DeviceID: 32, IPMIVersion: 0x20, ManufacturerID: 10876}, [16]byte{1}, mock.New())
	user, err := b.Users.Add(2, "rescue")
	if err != nil {
		t.Fatal(err)
	}
	user.SetPassword([]byte("secret12"))
	user.Enabled = true
	user.ChannelAccess[1] = peer.UserChannelAccess{MaxPrivilege: peer.PrivilegeLevelAdministrator, Enabled: true}
	commands := handlers.NewRegistry()
	handlers.RegisterAllHandlers(commands)
	commands.RegisterFunc(types.Command{NetFn: types.NetFnOEMSupermicroRequest, ID: 0x70}, func(_ context.Context, _ *handlers.HandlerContext, asked []byte) ([]byte, types.CompletionCode, error) {
		if n := mode.Load(); n >= 0 && string(asked) == "\x0c\x00" {
			return []byte{byte(n)}, types.CodeOK, nil
		}
		return nil, 0xc1, nil
	})
	conn, err := udp.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := server.NewServer(b, conn, server.WithHandlerRegistry(commands))
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(context.Background()) }()
	t.Cleanup(func() { s.Close(); conn.Close(); <-done })
	return conn.LocalAddr().(*net.UDPAddr).Port
}

// A Supermicro says it over IPMI, be it spoken to over that or over Redfish.
func TestAuditSupermicroPort(t *testing.T) {
	mode := &atomic.Int32{}
	port := startSupermicro(t, mode)
	_, web := startKind(t, "supermicro")
	ipmi := &IPMI{Host: "127.0.0.1", Port: port, User: "rescue", Password: fixed("secret12")}
	config := Config{Host: "127.0.0.1", IPMIPort: port, User: "rescue", Password: fixed("secret12")}
	overIPMI, overRedfish := config, config
	overIPMI.Protocol, overIPMI.Port = "ipmi", port
	overRedfish.Protocol, overRedfish.Port = "redfish", web.Port
	for _, target := range []Target{{Machine: "ipmi", Config: overIPMI, Controller: ipmi}, {Machine: "redfish", Config: overRedfish, Controller: web}} {
		for n, want := range map[int32]struct {
			level Level
			says  string
		}{0: {Good, "is dedicated"}, 1: {Bad, "is shared with the server's"}, 2: {Bad, "fails over to the server's"}, 7: {Note, "not known"}, -1: {Note, "not known"}} {
			mode.Store(n)
			a := &Auditor{LAN: netip.MustParsePrefix("127.0.0.0/24"), Targets: []Target{target}}
			s := a.subjectOf(t.Context(), target)
			s.lookAtFirmware(t.Context())
			a.lookAtIPMI(t.Context(), s)
			s.findings = nil
			s.lookAtPort(t.Context(), a.LAN)
			got := levels(s.findings, "127.0.0.1")[checkNetwork]
			if text := textOf(s.findings, checkNetwork); got != want.level || !strings.Contains(text, want.says) {
				t.Errorf("%s, mode %d: %s %s", target.Machine, n, got, text)
			}
		}
	}
}
