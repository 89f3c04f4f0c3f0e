// Command modem is a modem that is not there, for the lab and for a look at what rescuebox does with one.
//
//	modem -dir DIR [-socket @NAME] [-pin 1234] [-maker Quectel] [-dial "PROGRAM {tty} …"]
//
// DIR/modem is its AT port. What it shall do is read from standard input, a line each:
//
//	deliver NUMBER TEXT      a text message comes
//	register STATE [ACT]     home, roaming, searching, denied, off; ACT 0 GSM, 2 UMTS, 7 LTE
//	signal RSSI              0…31
//	sim STATE                ready, pin, puk, missing
//	power FUN                +CFUN as the modem has it: 1 on, 4 radio off
//	urc LINE                 the modem says so
//	fault COMMAND RESULT     commands that begin so are answered so: fault +CSQ ERROR
//	late COMMAND SECONDS     … so late
//	heal                     no faults any more
//	hang|stall on|off        it answers nothing, it does not even read
//	unplug, plug
//
// What it sends and is told is written to standard output.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"rescuebox/appliance/modem/modemtest"
)

func main() {
	dir := flag.String("dir", "", "where its AT port is to be")
	socket := flag.String("socket", "", "one more AT port: an abstract unix socket, for ModemManager's test mode")
	pin := flag.String("pin", "", "of the SIM (default none)")
	maker := flag.String("maker", "Fake", "what +CGMI says")
	dial := flag.String("dial", "", "the network's side of a data call: a program, {tty} is its line")
	flag.Parse()
	m := modemtest.New()
	m.Manufacturer = *maker
	if *pin != "" {
		m.PIN = *pin
		m.Insert(modemtest.WantsPIN)
	}
	if argv := strings.Fields(*dial); len(argv) > 0 {
		m.Dial = modemtest.Program(argv...)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, m, *dir, *socket); err != nil {
		log.Fatalf("modem: %v", err)
	}
}

// run is the modem until ctx is done.
func run(ctx context.Context, m *modemtest.Modem, dir, socket string) error {
	if dir == "" {
		return errors.New("-dir is missing")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := m.Open(dir); err != nil {
		return err
	}
	defer m.Close()
	if socket != "" {
		l, err := net.Listen("unix", socket)
		if err != nil {
			return err
		}
		defer l.Close()
		go serve(l, m)
	}
	fmt.Println("port", m.Path)
	go obey(m, os.Stdin)
	show(ctx, m)
	return nil
}

func serve(l net.Listener, m *modemtest.Modem) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go m.Serve(conn)
	}
}

// show prints each message that goes out.
func show(ctx context.Context, m *modemtest.Modem) {
	shown := 0
	for {
		sent := m.Sent()
		for _, s := range sent[shown:] {
			fmt.Printf("sent %s %q\n", s.Number, s.Text)
		}
		shown = len(sent)
		select {
		case <-ctx.Done():
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// obey does what the lines say.
func obey(m *modemtest.Modem, r io.Reader) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if err := do(m, lines.Text()); err != nil {
			fmt.Println("error", err)
			continue
		}
		fmt.Println("done", lines.Text())
	}
}

var (
	states = map[string]modemtest.Registration{"home": modemtest.Home, "roaming": modemtest.Roaming, "searching": modemtest.Searching,
		"denied": modemtest.Denied, "off": modemtest.NotSearching}
	sims = map[string]modemtest.SIM{"ready": modemtest.Ready, "pin": modemtest.WantsPIN, "puk": modemtest.WantsPUK, "missing": modemtest.Missing}
)

// do is one line.
func do(m *modemtest.Modem, line string) error {
	verb, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	first, second, _ := strings.Cut(rest, " ")
	number, notNumber := strconv.Atoi(first)
	switch verb {
	case "":
		return nil
	case "deliver":
		return m.Deliver(first, second)
	case "register":
		return register(m, first, second)
	case "sim":
		state, ok := sims[first]
		if !ok {
			return fmt.Errorf("a SIM is one of %s", names(sims))
		}
		m.Insert(state)
	case "signal", "power":
		if notNumber != nil {
			return fmt.Errorf("%s wants a number", verb)
		}
		map[string]func(int){"signal": m.Signal, "power": m.Power}[verb](number)
	case "hang":
		m.Hang(first == "on")
	case "stall":
		m.Stall(first == "on")
	case "unplug":
		m.Unplug()
	case "plug":
		return m.Plug()
	case "urc":
		m.URC(rest)
	case "heal":
		m.Heal("")
	case "fault":
		m.Fault(first, modemtest.Answer{Lines: []string{}, Result: second})
	case "late":
		seconds, err := strconv.ParseFloat(second, 64)
		m.Fault(first, modemtest.Answer{Delay: time.Duration(seconds * float64(time.Second))})
		return err
	default:
		return fmt.Errorf("no verb %q", verb)
	}
	return nil
}

func register(m *modemtest.Modem, state, act string) error {
	r, ok := states[state]
	if !ok {
		return fmt.Errorf("a registration is one of %s", names(states))
	}
	technology := 7
	if act != "" {
		n, err := strconv.Atoi(act)
		if err != nil {
			return fmt.Errorf("the technology is a number: %w", err)
		}
		technology = n
	}
	m.Register(r, technology)
	return nil
}

func names[T any](list map[string]T) string {
	var words []string
	for word := range list {
		words = append(words, word)
	}
	slices.Sort(words)
	return strings.Join(words, ", ")
}
