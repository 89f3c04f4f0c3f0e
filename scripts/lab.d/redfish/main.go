// Command redfish is the controller of one of the lab's virtual servers: a maker's
// Redfish service over TLS, which powers the server by a command.
//
//	redfish -listen ADDRESS:443 -maker MAKER -user USER -password PASSWORD -cd FILE COMMAND [WORD...]
//
// The command is given one more word, "off", or "on" and with what to start. What is
// in the virtual drive is fetched into FILE when the server starts from it.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"rescuebox/appliance/bmc/bmctest"
)

func main() {
	listen := flag.String("listen", "", "address and port")
	maker := flag.String("maker", "", "whose service it is like (default ami)")
	user := flag.String("user", "", "who may log in")
	password := flag.String("password", "", "the user's password")
	cd := flag.String("cd", "", "file that holds what is in the virtual drive")
	flag.Parse()
	if *maker == "" {
		*maker = "ami"
	}
	if err := run(*listen, *maker, *user, *password, newServer(flag.Args(), *cd)); err != nil {
		log.Fatalf("redfish: %v", err)
	}
}

// run serves until SIGTERM.
func run(listen, maker, user, password string, s *server) error {
	service, err := bmctest.New(maker)
	if err != nil {
		return err
	}
	service.User, service.Password, service.Machine = user, password, s
	service.Hook = func(_ http.ResponseWriter, r bmctest.Request) bool {
		log.Printf("%s %s %v", r.Method, r.Path, r.Body)
		return false
	}
	service.Change(service.System(), func(system map[string]any) { system["PowerState"] = "Off" })
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	web := httptest.NewUnstartedServer(service)
	web.Listener.Close()
	web.Listener = l
	web.StartTLS()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
	<-stop
	return nil
}

// server is the virtual server. Like a real one it takes its time, and the
// controller's answer does not wait for it.
type server struct {
	command []string
	cd      string
	todo    chan func()
}

func newServer(command []string, cd string) *server {
	s := &server{command: command, cd: cd, todo: make(chan func(), 100)}
	go func() {
		for do := range s.todo {
			do()
		}
	}()
	return s
}

// Power is that of bmctest.Machine.
func (s *server) Power(on bool, boot, cd string) error {
	s.todo <- func() {
		if on {
			s.run(append([]string{"on", "--boot", device(boot)}, s.drive(cd)...))
		} else {
			s.run([]string{"off"})
		}
	}
	return nil
}

// drive is the virtual drive as the lab is told of it. One that cannot be read is
// none: firmware passes over it.
func (s *server) drive(url string) []string {
	if url == "" {
		return nil
	}
	if err := fetch(url, s.cd); err != nil {
		log.Print(err)
		return nil
	}
	return []string{"--cd", s.cd}
}

func (s *server) run(words []string) {
	args := slices.Concat(s.command, words)
	log.Printf("%q", args)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		log.Printf("%q: %v", args, err)
	}
}

// device is a BootSourceOverrideTarget (DSP0268, ComputerSystem) as the lab calls it.
func device(target string) string {
	switch target {
	case "Pxe", "UefiHttp":
		return "network"
	case "Cd", "UsbCd", "VCD-DVD": // the last is Dell's, of its attributes
		return "usb"
	}
	return "disk"
}

// fetch is what a controller does while the server reads, done at once.
func fetch(url, file string) (err error) {
	client := &http.Client{Timeout: 5 * time.Minute}
	res, err := client.Get(url)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("fetch %s: %s", url, res.Status)
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, res.Body)
	log.Printf("fetched %d bytes from %s", n, url)
	return errors.Join(err, f.Close())
}
