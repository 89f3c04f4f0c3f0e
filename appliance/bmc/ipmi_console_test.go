package bmc

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// serialPort is the server's serial port behind the simulator: a terminal on
// TCP that the simulator connects to.
func serialPort(t *testing.T) (address string, conns <-chan net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	accepted := make(chan net.Conn, 4)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	return l.Addr().String(), accepted
}

func TestIPMIConsole(t *testing.T) {
	address, conns := serialPort(t)
	host, port, _ := net.SplitHostPort(address)
	s := startSim(t, fmt.Sprintf("  sol \"telnet:%s:%s\" 115200", host, port))
	console, err := s.client().Console(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var server net.Conn
	select {
	case server = <-conns:
	case <-time.After(20 * time.Second):
		t.Fatal("the simulator did not open the serial port")
	}
	go io.Copy(io.Discard, server)
	lines := make(chan string, 10)
	go func() {
		defer close(lines)
		for r := bufio.NewScanner(console); r.Scan(); {
			lines <- r.Text()
		}
	}()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case line := <-lines:
			if strings.Contains(line, "kernel panic") {
				// A second session takes the place of the first.
				second, err := s.client().Console(t.Context())
				if err != nil {
					t.Fatalf("second session: %v", err)
				}
				if err := second.Close(); err != nil {
					t.Error(err)
				}
				if err := console.Close(); err != nil {
					t.Error(err)
				}
				return
			}
		case <-tick.C:
			fmt.Fprint(server, "kernel panic\r\n")
		case <-deadline:
			t.Fatal("nothing came over the console")
		}
	}
}
