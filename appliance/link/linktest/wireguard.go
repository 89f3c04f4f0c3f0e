package linktest

import (
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// hubDevice is the hub's tunnel.
const hubDevice = "hub0"

// wireguard is a hub's WireGuard: wireguard-go's device, or the kernel's.
type wireguard interface {
	IpcSet(text string) error
	IpcGet() (string, error)
}

// newWireguard makes the hub's interface.
func newWireguard(kernel bool) (wireguard, error) {
	if kernel {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = hubDevice, 1420
		if err := netlink.LinkAdd(&netlink.Wireguard{LinkAttrs: attrs}); err != nil {
			return nil, fmt.Errorf("make the hub's tunnel in the kernel: %w", err)
		}
		c, err := wgctrl.New()
		return &kernelWireguard{c}, err
	}
	t, err := tun.CreateTUN(hubDevice, 1420)
	if err != nil {
		return nil, fmt.Errorf("make the hub's tunnel: %w", err)
	}
	log := &device.Logger{Verbosef: device.DiscardLogf, Errorf: device.DiscardLogf}
	if os.Getenv("LINKTEST_LOG") != "" {
		say := func(format string, args ...any) { fmt.Fprintf(os.Stderr, "hub: "+format+"\n", args...) }
		log = &device.Logger{Verbosef: say, Errorf: say}
	}
	dev := device.NewDevice(t, conn.NewDefaultBind(), log)
	return dev, dev.Up()
}

// kernelWireguard takes the few words of WireGuard's configuration protocol that a hub uses.
type kernelWireguard struct{ c *wgctrl.Client }

func (k *kernelWireguard) IpcSet(text string) error {
	var cfg wgtypes.Config
	for line := range strings.Lines(text) {
		word, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		var err error
		switch word {
		case "private_key":
			var private wgtypes.Key
			private, err = keyOf(value)
			cfg.PrivateKey = &private
		case "listen_port":
			var port int
			_, err = fmt.Sscan(value, &port)
			cfg.ListenPort = &port
		case "public_key":
			var public wgtypes.Key
			public, err = keyOf(value)
			cfg.Peers = append(cfg.Peers, wgtypes.PeerConfig{PublicKey: public})
		case "preshared_key":
			var shared wgtypes.Key
			shared, err = keyOf(value)
			cfg.Peers[len(cfg.Peers)-1].PresharedKey = &shared
		case "allowed_ip":
			var network *net.IPNet
			_, network, err = net.ParseCIDR(value)
			if err == nil {
				p := &cfg.Peers[len(cfg.Peers)-1]
				p.AllowedIPs = append(p.AllowedIPs, *network)
			}
		default:
			err = fmt.Errorf("nobody knows %s", word)
		}
		if err != nil {
			return err
		}
	}
	return k.c.ConfigureDevice(hubDevice, cfg)
}

func (k *kernelWireguard) IpcGet() (string, error) {
	dev, err := k.c.Device(hubDevice)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, p := range dev.Peers {
		fmt.Fprintf(&b, "public_key=%x\nendpoint=%v\nlast_handshake_time_sec=%d\nrx_bytes=%d\ntx_bytes=%d\n",
			p.PublicKey[:], p.Endpoint, p.LastHandshakeTime.Unix(), p.ReceiveBytes, p.TransmitBytes)
	}
	return b.String(), nil
}

func keyOf(text string) (k wgtypes.Key, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(k) {
		return k, fmt.Errorf("no key: %d letters", len(text))
	}
	return wgtypes.Key(b), nil
}
