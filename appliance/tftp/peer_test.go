package tftp

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	pin "github.com/pin/tftp/v3"
)

// tool skips where a peer is not installed, and fails in CI with its package.
func tool(t *testing.T, name, pkg string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is missing: apt-get install %s", name, pkg)
		}
		t.Skipf("%s is missing: apt-get install %s", name, pkg)
	}
}

func TestPeersFetchWhole(t *testing.T) {
	peers := []struct {
		name, pkg string
		blocks    []string // "" for no option
		command   func(host, port, block, out string) []string
	}{
		{"atftp", "atftp", []string{"1", "4", "8", "64", "1000"}, func(host, port, window, out string) []string { // 1000: more than we grant
			return []string{"atftp", "--get", "--option", "tsize 0", "--option", "blksize 1456", "--option", "windowsize " + window, "-r", "f", "-l", out, host, port}
		}},
		{"atftp", "atftp", []string{"", "512", "1456", "1468", "8192"}, func(host, port, block, out string) []string {
			args := []string{"atftp", "--get", "--option", "tsize 0", "-r", "f", "-l", out}
			if block != "" {
				args = append(args, "--option", "blksize "+block)
			}
			return append(args, host, port)
		}},
		{"curl", "curl", []string{"", "512", "1456", "1468", "8192"}, func(host, port, block, out string) []string {
			args := []string{"curl", "-q", "-sS", "--noproxy", "*", "-o", out}
			if block != "" {
				args = append(args, "--tftp-blksize", block)
			}
			return append(args, "tftp://"+host+":"+port+"/f")
		}},
		{"busybox", "busybox", []string{"", "512", "1456", "1468", "8192"}, func(host, port, block, out string) []string {
			args := []string{"busybox", "tftp", "-g", "-r", "f", "-l", out}
			if block != "" {
				args = append(args, "-b", block)
			}
			return append(args, host, port)
		}},
	}
	tree, data := treeWith(t, 1<<20+77)
	addr, _ := start(t, tree, nil)
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			tool(t, p.name, p.pkg)
			for _, block := range p.blocks {
				before, _ := tree.seen()
				out := filepath.Join(t.TempDir(), "out")
				args := p.command(addr.Addr().String(), fmt.Sprint(addr.Port()), block, out)
				said, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput()
				got, _ := os.ReadFile(out)
				if err != nil || !bytes.Equal(got, data) {
					t.Errorf("blocks of %q: %d bytes came, %v: %s", block, len(got), err, said)
				}
				eventually(t, "served", func() bool { s, _ := tree.seen(); return len(s) == len(before)+1 })
			}
		})
	}
}

func TestPeersHearTheReason(t *testing.T) {
	tool(t, "atftp", "atftp")
	tree, _ := treeWith(t, 1)
	addr, _ := start(t, tree, nil)
	said, err := exec.Command("atftp", "--get", "--verbose", "-r", "no order", "-l", filepath.Join(t.TempDir(), "out"),
		addr.Addr().String(), fmt.Sprint(addr.Port())).CombinedOutput()
	if err == nil || !strings.Contains(string(said), "srv01 has no order") {
		t.Errorf("%v: %s", err, said)
	}
}

func TestManyAtOnceLoseNothing(t *testing.T) {
	tree, data := treeWith(t, 300_000)
	addr, _ := start(t, tree, nil)
	var clients sync.WaitGroup
	for i := range 50 {
		clients.Go(func() {
			// Each from its own address: an address may have eight transfers.
			conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 1, byte(i+1))})
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			var got bytes.Buffer
			c := &client{conn: conn, server: addr}
			if _, err := c.get(rq(opRRQ, "f", "octet", "blksize", "1456"), &got); err != nil || !bytes.Equal(got.Bytes(), data) {
				t.Errorf("client %d: %d bytes, %v", i, got.Len(), err)
			}
		})
	}
	clients.Wait()
}

// some drops packets at random.
func some(loss float64) func([]byte) bool {
	dice := rand.New(rand.NewSource(1))
	return func([]byte) bool { return dice.Float64() < loss }
}

// lossy relays one transfer and drops some of its packets.
func lossy(t *testing.T, server netip.AddrPort, drop func(packet []byte) bool) netip.AddrPort {
	t.Helper()
	front, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	back, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { front.Close(); back.Close() })
	for _, conn := range []*net.UDPConn{front, back} {
		conn.SetReadBuffer(4 << 20) // what is lost is the test's decision
		conn.SetWriteBuffer(4 << 20)
	}
	var mu sync.Mutex
	var client, transfer netip.AddrPort
	go func() {
		buf := make([]byte, 2000)
		for {
			n, from, err := front.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			mu.Lock()
			client = from
			to := transfer
			if buf[1] == opRRQ || buf[1] == opWRQ {
				to = server
			}
			if !drop(buf[:n]) {
				back.WriteToUDPAddrPort(buf[:n], to)
			}
			mu.Unlock()
		}
	}()
	go func() {
		buf := make([]byte, 2000)
		for {
			n, from, err := back.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			mu.Lock()
			transfer = from
			if !drop(buf[:n]) {
				front.WriteToUDPAddrPort(buf[:n], client)
			}
			mu.Unlock()
		}
	}()
	return front.LocalAddr().(*net.UDPAddr).AddrPort()
}

func TestArrivesWholeWithLoss(t *testing.T) {
	const block = 1456
	tree, data := treeWith(t, 128<<10)
	addr, _ := start(t, tree, func(s *Server) { s.patience = 4 * time.Second })
	lost, last := some(0.1), ack(uint16(len(data)/block+1))
	c, err := pin.NewClient(lossy(t, addr, func(p []byte) bool {
		// It says once that it has all, and leaves. Had it asked for the last block again before,
		// and were that lost, nobody could know that it has it.
		return lost(p) && !bytes.Equal(p, last)
	}).String())
	if err != nil {
		t.Fatal(err)
	}
	c.SetBlockSize(block)
	c.SetTimeout(300 * time.Millisecond) // it answers no block twice: a lost acknowledgement is its to send again
	c.SetBackoff(func(int) time.Duration { return 0 })
	c.SetRetries(20)
	c.RequestTSize(true)
	from, err := c.Receive("f", "octet")
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if _, err := from.WriteTo(&got); err != nil || !bytes.Equal(got.Bytes(), data) {
		t.Errorf("%d bytes came, %v", got.Len(), err)
	}
	eventually(t, "served", func() bool { s, _ := tree.seen(); return len(s) == 1 })
}

// netns runs a command in a network namespace.
func netns(t *testing.T, ns string, env string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), "ip", append([]string{"netns", "exec", ns}, args...)...)
	cmd.Env = append(os.Environ(), env)
	return cmd
}

// branch makes two namespaces joined by a veth pair of the MTU, 10.9.0.1 and 10.9.0.2.
func branch(t *testing.T, mtu int) (box, machine string) {
	t.Helper()
	tool(t, "ip", "iproute2")
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	box, machine = fmt.Sprintf("files-%d-a", os.Getpid()), fmt.Sprintf("files-%d-b", os.Getpid())
	run := func(command string) {
		if said, err := exec.Command("sh", "-ec", command).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", command, err, said)
		}
	}
	t.Cleanup(func() { exec.Command("sh", "-c", "ip netns del "+box+"; ip netns del "+machine).Run() })
	run("ip netns add " + box + "; ip netns add " + machine)
	run(fmt.Sprintf("ip link add va netns %s mtu %d type veth peer name vb netns %s mtu %d", box, mtu, machine, mtu))
	run("ip -n " + box + " addr add 10.9.0.1/24 dev va; ip -n " + box + " link set va up; ip -n " + box + " link set lo up")
	run("ip -n " + machine + " addr add 10.9.0.2/24 dev vb; ip -n " + machine + " link set vb up; ip -n " + machine + " link set lo up")
	return box, machine
}

func TestNothingFragments(t *testing.T) {
	for _, mtu := range []int{1500, 1400} {
		t.Run(fmt.Sprint(mtu), func(t *testing.T) {
			box, machine := branch(t, mtu)
			tree, data := treeWith(t, 100_000)
			serve := netns(t, box, "TFTP_TEST_SERVE=10.9.0.1:69,"+tree.dir, os.Args[0])
			out, err := serve.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := serve.Start(); err != nil {
				t.Fatal(err)
			}
			if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
				t.Fatalf("%q, %v", line, err)
			}
			for _, window := range []string{"0", "64"} {
				got, err := netns(t, machine, "TFTP_TEST_GET=10.9.0.1:69 8192 "+window, os.Args[0]).CombinedOutput()
				want := fmt.Sprintf("%d %x <nil>", mtu-32, sha256.Sum256(data))
				if err != nil || string(got) != want {
					t.Errorf("window %s: got %s, %v; want %s", window, got, err, want)
				}
			}
			if n := fragments(t, box); n != 0 {
				t.Errorf("%d fragments left the box", n)
			}
			// The same counter sees a fragment where there is one.
			netns(t, box, "", "sh", "-c", "ping -c1 -W1 -s 3000 10.9.0.2 || busybox ping -c1 -W1 -s 3000 10.9.0.2").Run()
			if n := fragments(t, box); n == 0 {
				t.Log("no ping here to make a fragment with: the counter is not proven")
			}
			serve.Process.Kill()
			serve.Wait()
		})
	}
}

// fragments reads how many IP fragments a namespace has made.
func fragments(t *testing.T, ns string) (n int) {
	t.Helper()
	said, err := netns(t, ns, "", "cat", "/proc/net/snmp").Output()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(said)) {
		f := strings.Fields(line)
		if f[0] != "Ip:" {
			continue
		}
		if names == nil {
			names = f
			continue
		}
		for i, name := range names {
			if name == "FragCreates" {
				fmt.Sscan(f[i], &n)
			}
		}
	}
	return n
}
