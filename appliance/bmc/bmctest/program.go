package bmctest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// Command is a machine behind a program, as OpenIPMI's ipmi_sim calls it: PROGRAM… set boot pxe,
// then set cd ADDRESS (or none), then set power 1.
type Command []string

// boots are the targets in the words that ipmi_sim uses.
var boots = map[string]string{"": "none", "Pxe": "pxe", "UefiHttp": "http", "Hdd": "default", "Cd": "cdrom", "UsbCd": "cdrom", "VCD-DVD": "cdrom"}

// Power is that of Machine.
func (c Command) Power(on bool, boot, cd string) error {
	if !on {
		return c.set("power", "0")
	}
	word, ok := boots[boot]
	if !ok {
		return fmt.Errorf("no boot from %s", boot)
	}
	if cd == "" {
		cd = "none"
	}
	return errors.Join(c.set("boot", word), c.set("cd", cd), c.set("power", "1"))
}

func (c Command) set(name, value string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	argv := append(append([]string{}, c...), "set", name, value)
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, out)
	}
	return nil
}

// Certificate is a new one, signed by itself, as a controller's is.
func Certificate(name string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// Serve serves over TLS until ctx is done.
func (r *Redfish) Serve(ctx context.Context, l net.Listener) error {
	certificate, err := Certificate("bmc")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: r, TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}}, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Main is the service as a program: redfish_sim [-listen 127.0.0.1:0] [-kind ilo] [-user U -password P] PROGRAM [ARG…].
// It says where it listens, and returns an exit code.
func Main(args []string, out, errOut io.Writer) int {
	flags := flag.NewFlagSet("redfish_sim", flag.ContinueOnError)
	flags.SetOutput(errOut)
	listen := flags.String("listen", "127.0.0.1:0", "address")
	kind := flags.String("kind", "ilo", "ilo, idrac, xcc, supermicro, ami or sushy")
	user, password := flags.String("user", "rescue", "user"), flags.String("password", "secret12", "password")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	r, err := New(*kind)
	if err != nil {
		fmt.Fprintln(errOut, err)
		return 2
	}
	r.User, r.Password = *user, *password
	if flags.NArg() > 0 {
		r.Machine = Command(flags.Args())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", *listen)
	if err == nil {
		fmt.Fprintln(out, l.Addr())
		err = r.Serve(ctx, l)
	}
	if err != nil {
		fmt.Fprintln(errOut, err)
		return 1
	}
	return 0
}
