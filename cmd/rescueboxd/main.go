// Command rescueboxd is the daemon of the rescue box. It reads the file of the
// site and runs the appliance until it is told to stop.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/term"

	"rescuebox/appliance"
	"rescuebox/appliance/config"
)

// version is set by the build: -ldflags "-X main.version=1.2.3".
var version = "devel"

func main() { os.Exit(run()) }

// run returns the exit code: 0 stopped as asked, 1 failed, 2 wrong usage or configuration.
func run() int {
	file := flag.String("config", "/etc/rescuebox/rescuebox.toml", "the `file` of the site")
	showVersion := flag.Bool("version", false, "print the version and exit")
	ppp := flag.Bool("ppp", false, "run pppd as the daemon asks on standard input, and exit; for rescuebox-ppp@.service")
	flag.Parse()
	if *showVersion {
		fmt.Println("rescueboxd", version)
		return 0
	}
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "rescueboxd: unexpected argument %q; the file of the site is given with -config\n", flag.Arg(0))
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if *ppp {
		if err := appliance.ServePPP(ctx); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
	cfg, err := config.Load(*file)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	log := logger(cfg.Log.Level)
	defer log.Sync()
	err = appliance.Run(ctx, appliance.Options{Config: cfg, Version: version, Log: log, Notify: notify})
	if err != nil && !errors.Is(err, context.Canceled) {
		log.Error("cannot run", zap.NamedError("err", err))
		return 1
	}
	return 0
}

// logger writes for people on a terminal, and JSON for the journal otherwise.
func logger(level zapcore.Level) *zap.Logger {
	c := zap.NewProductionConfig()
	c.EncoderConfig.EncodeTime = zapcore.ISO8601TimeEncoder
	c.Sampling = nil // no line of a timeline may be missing
	if term.IsTerminal(int(os.Stderr.Fd())) {
		c = zap.NewDevelopmentConfig()
		c.EncoderConfig.EncodeLevel = zapcore.CapitalColorLevelEncoder
		c.EncoderConfig.EncodeTime = zapcore.TimeEncoderOfLayout(time.TimeOnly)
	}
	c.Level.SetLevel(level)
	c.DisableStacktrace, c.DisableCaller = true, true
	log, err := c.Build()
	if err != nil { // only unknown encodings and sinks can fail, and these are fixed
		panic(err)
	}
	return log
}

// notify tells systemd how we are; without systemd it does nothing.
func notify(state string) {
	daemon.SdNotify(false, state)
}
