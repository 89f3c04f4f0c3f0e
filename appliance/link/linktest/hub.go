package linktest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// Addresses and ports of the tunnel's two ends.
const (
	HubInner    = "10.99.0.1" // the hub inside of the tunnel
	BranchInner = "10.99.0.2" // the box inside of the tunnel
	EchoUDP     = 7001        // at the box: what Hub.Meter asks
	EchoTCP     = 7002        // at the box: what Hub.Stream types into
	InnerEcho   = 7000        // UDP, at the hub inside
	OuterEcho   = 7777        // UDP, at the hub outside
)

// Hub is the admin's end of the tunnel: WireGuard, in a process and namespace of its
// own. Outside it also answers UDP echo (7777), DNS (53: NXDOMAIN, but hub.example is itself)
// and HTTP (80: 204); inside UDP echo (7000).
type Hub struct {
	*Place
	PublicKey string
	Endpoint  netip.AddrPort // 192.0.2.1:51820, the second one 192.0.2.2
	Kernel    bool           // the kernel's WireGuard, from the next Start on
	mu        sync.Mutex
	cmd       *exec.Cmd
	in        io.WriteCloser
	out       *json.Decoder
	private   wgtypes.Key
}

// hubRequest and hubReply are what goes between a hub and its process.
type hubRequest struct {
	Do      string
	Key     string        `json:",omitempty"` // hex, as WireGuard's own protocol has it
	Address string        `json:",omitempty"`
	Port    uint16        `json:",omitempty"`
	Every   time.Duration `json:",omitempty"`
	PSK     string        `json:",omitempty"`
	Kernel  bool          `json:",omitempty"`
}

type hubReply struct {
	Err    string      `json:",omitempty"`
	Meter  *Reading    `json:",omitempty"`
	Stream *StreamRead `json:",omitempty"`
	Device string      `json:",omitempty"`
}

// Hub starts the first hub; called again, another one beside it. It ends with the test.
func (w *World) Hub(t testing.TB) *Hub {
	t.Helper()
	h, err := w.StartHub(false)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// KernelHub is Hub with the kernel's WireGuard, for the guest.
func (w *World) KernelHub(t testing.TB) *Hub {
	t.Helper()
	h, err := w.StartHub(true)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// StartHub is Hub without a test.
func (w *World) StartHub(kernel bool) (*Hub, error) {
	key, err := wgtypes.GeneratePrivateKey()
	if err != nil {
		return nil, err
	}
	n := w.started
	if n == len(w.hubs) {
		if _, err := w.addHub(); err != nil {
			return nil, err
		}
	}
	w.started++
	h := &Hub{Place: w.hubs[n], Kernel: kernel, private: key, PublicKey: key.PublicKey().String(),
		Endpoint: netip.AddrPortFrom(netip.MustParseAddr(hubAddress(n)), 51820)}
	w.onClose(h.Stop)
	return h, h.Start()
}

// Start runs the hub's process; after Stop, anew, as when the hub was rebooted: it knows
// its key, and nobody until Admit.
func (h *Hub) Start() error {
	cmd := h.child("hub")
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	h.mu.Lock()
	h.cmd, h.in, h.out = cmd, in, json.NewDecoder(out)
	h.mu.Unlock()
	_, err = h.ask(hubRequest{Do: "start", Key: hexKey(h.private), Address: h.Endpoint.Addr().String(), Port: h.Endpoint.Port(), Kernel: h.Kernel})
	return err
}

// Stop ends the hub's process: to the branch it is dead.
func (h *Hub) Stop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cmd == nil {
		return
	}
	h.in.Close()
	_ = h.cmd.Process.Kill() // ended already is as good
	_ = h.cmd.Wait()         // it was killed
	h.cmd = nil
}

// Pid is the hub's process, for SIGSTOP.
func (h *Hub) Pid() int { return h.cmd.Process.Pid }

// Admit lets a box in, by its public key in base64; psk is empty or in base64 too.
func (h *Hub) Admit(publicKey, psk string) error {
	key, err := wgtypes.ParseKey(publicKey)
	if err != nil {
		return err
	}
	r := hubRequest{Do: "admit", Key: hexKey(key), Address: BranchInner + "/32"}
	if psk != "" {
		shared, err := wgtypes.ParseKey(psk)
		if err != nil {
			return err
		}
		r.PSK = hexKey(shared)
	}
	_, err = h.ask(r)
	return err
}

// Share makes the hub send what is for a network to the box, besides its own address.
func (h *Hub) Share(publicKey string, network netip.Prefix) error {
	key, err := wgtypes.ParseKey(publicKey)
	if err != nil {
		return err
	}
	_, err = h.ask(hubRequest{Do: "share", Key: hexKey(key), Address: network.String()})
	return err
}

// Meter asks the box's echo for an answer at once and then each time, until stop.
func (h *Hub) Meter(every time.Duration) (stop func() (Reading, error), err error) {
	if _, err := h.ask(hubRequest{Do: "meter", Every: every}); err != nil {
		return nil, err
	}
	return func() (Reading, error) {
		reply, err := h.ask(hubRequest{Do: "meter-stop"})
		if err != nil {
			return Reading{}, err
		}
		return *reply.Meter, nil
	}, nil
}

// StreamRead is what became of a TCP stream.
type StreamRead struct {
	Echoes []time.Duration // how long each took
	Err    string          // why it broke
}

// Worst is the echo that took longest.
func (s StreamRead) Worst() (worst time.Duration) {
	for _, d := range s.Echoes {
		worst = max(worst, d)
	}
	return worst
}

// Stream types into the box's echo over TCP, 20 bytes each time, as an admin does over SSH, until stop.
func (h *Hub) Stream(every time.Duration) (stop func() (StreamRead, error), err error) {
	if _, err := h.ask(hubRequest{Do: "stream", Every: every}); err != nil {
		return nil, err
	}
	return func() (StreamRead, error) {
		reply, err := h.ask(hubRequest{Do: "stream-stop"})
		if err != nil {
			return StreamRead{}, err
		}
		return *reply.Stream, nil
	}, nil
}

// Device is what the hub's WireGuard says of itself, in its own protocol: endpoint=, last_handshake_time_sec=, …
func (h *Hub) Device() (string, error) {
	reply, err := h.ask(hubRequest{Do: "device"})
	return reply.Device, err
}

// Way is the name of the uplink by which the hub's packets for the box go, or "".
func (h *Hub) Way() (string, error) {
	text, err := h.Device()
	switch {
	case strings.Contains(text, "endpoint=203.0.113."):
		return "wan", err
	case strings.Contains(text, "endpoint=198.51.100."):
		return "lte", err
	}
	return "", err
}

// ask gives the process one order and waits for its answer.
func (h *Hub) ask(r hubRequest) (hubReply, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var reply hubReply
	if h.cmd == nil {
		return reply, fmt.Errorf("the hub does not run")
	}
	if err := json.NewEncoder(h.in).Encode(r); err != nil {
		return reply, fmt.Errorf("ask the hub to %s: %w", r.Do, err)
	}
	if err := h.out.Decode(&reply); err != nil {
		return reply, fmt.Errorf("the hub was asked to %s: %w", r.Do, err)
	}
	if reply.Err != "" {
		return reply, fmt.Errorf("the hub was asked to %s: %s", r.Do, reply.Err)
	}
	return reply, nil
}

func hexKey(k wgtypes.Key) string { return fmt.Sprintf("%x", k[:]) }

// Echo starts the box's UDP and TCP echo, in a process of its own, until the test ends.
func (w *World) Echo(t testing.TB) {
	t.Helper()
	if err := w.StartEcho(); err != nil {
		t.Fatal(err)
	}
}

// StartEcho is Echo without a test.
func (w *World) StartEcho() error {
	cmd := w.Branch.child("echo")
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	w.onClose(func() {
		in.Close()
		_ = cmd.Wait() // it ends with its input
	})
	if _, err := out.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("start the box's echo: %w", err)
	}
	return nil
}
