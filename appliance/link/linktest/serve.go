package linktest

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// hubProcess is what runs in the hub's namespace.
type hubProcess struct {
	dev    wireguard
	meter  *meter
	stream *stream
}

// serveHub does what it is asked for until the input ends.
func serveHub(in io.Reader, out io.Writer) error {
	var h hubProcess
	requests, replies := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var r hubRequest
		if err := requests.Decode(&r); err != nil {
			return nil // the parent went
		}
		reply, err := h.do(r)
		if err != nil {
			reply.Err = err.Error()
		}
		if err := replies.Encode(reply); err != nil {
			return err
		}
	}
}

func (h *hubProcess) do(r hubRequest) (reply hubReply, err error) {
	switch r.Do {
	case "start":
		err = h.start(r)
	case "admit":
		text := "public_key=" + r.Key + "\nallowed_ip=" + r.Address + "\n"
		if r.PSK != "" {
			text += "preshared_key=" + r.PSK + "\n"
		}
		err = h.dev.IpcSet(text)
	case "share":
		if err = h.dev.IpcSet("public_key=" + r.Key + "\nallowed_ip=" + r.Address + "\n"); err == nil {
			err = command("ip", "route", "replace", r.Address, "dev", hubDevice)
		}
	case "meter":
		h.meter, err = startMeter(r.Every)
	case "meter-stop":
		reading := h.meter.stop()
		reply.Meter = &reading
	case "stream":
		h.stream, err = startStream(r.Every)
	case "stream-stop":
		reading := h.stream.stop()
		reply.Stream = &reading
	case "device":
		reply.Device, err = h.dev.IpcGet()
	default:
		err = fmt.Errorf("nobody knows how to %s", r.Do)
	}
	return reply, err
}

// start makes the hub's end of the tunnel and its services.
func (h *hubProcess) start(r hubRequest) error {
	var err error
	if h.dev, err = newWireguard(r.Kernel); err != nil {
		return err
	}
	if err := h.dev.IpcSet(fmt.Sprintf("private_key=%s\nlisten_port=%d\n", r.Key, r.Port)); err != nil {
		return err
	}
	if err := command("ip", "address", "add", HubInner+"/24", "dev", hubDevice); err != nil {
		return err
	}
	if err := command("ip", "link", "set", hubDevice, "up"); err != nil {
		return err
	}
	return serveOutside(r.Address)
}

// serveOutside starts what probes ask: echo, DNS, HTTP.
func serveOutside(address string) error {
	for _, at := range []string{fmt.Sprintf("%s:%d", HubInner, InnerEcho), fmt.Sprintf("%s:%d", address, OuterEcho)} {
		if err := answerUDP(at, slices.Clone[[]byte]); err != nil {
			return err
		}
	}
	self := [4]byte(net.ParseIP(address).To4())
	if err := answerUDP(address+":53", func(q []byte) []byte { return answerDNS(q, self) }); err != nil {
		return err
	}
	web, err := net.Listen("tcp", address+":80")
	if err != nil {
		return err
	}
	go http.Serve(web, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	return nil
}

// answerUDP answers every datagram with what answer makes of it.
func answerUDP(address string, answer func([]byte) []byte) error {
	c, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	go func() {
		buf := make([]byte, 65536)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			if reply := answer(buf[:n]); reply != nil {
				_, _ = c.WriteTo(reply, from) // a peer that is gone is none of an echo's business
			}
		}
	}()
	return nil
}

// answerDNS says that hub.example is the hub, and that there is no other name.
func answerDNS(query []byte, self [4]byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil
	}
	m.Response, m.Additionals = true, nil
	q := m.Questions[0]
	switch {
	case !strings.EqualFold(q.Name.String(), "hub.example."):
		m.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeA:
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60},
			Body:   &dnsmessage.AResource{A: self}}}
	}
	reply, err := m.Pack()
	if err != nil {
		return nil
	}
	return reply
}

func command(args ...string) error {
	_, err := run(exec.Command(args[0], args[1:]...), "")
	return err
}

// serveEcho is the box's echo, by UDP and TCP, until the input ends.
func serveEcho(in io.Reader) error {
	if err := answerUDP(fmt.Sprintf(":%d", EchoUDP), slices.Clone[[]byte]); err != nil {
		return err
	}
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", EchoTCP))
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c) // the other end says what became of it
			}()
		}
	}()
	fmt.Print("+")
	_, err = io.Copy(io.Discard, in)
	return err
}
