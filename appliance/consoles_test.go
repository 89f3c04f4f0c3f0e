package appliance

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"rescuebox/appliance/boot"
	"rescuebox/images"
)

// The last words of a machine are kept with its order also where that fails before the consoles are up, as one may that
// is gone on with after a restart.
func TestLastWordsOfEarlyFailure(t *testing.T) {
	cfg := site(t, t.TempDir())
	cfg.Machines[0].Serial = "/dev/null"
	b, err := assemble(Options{Config: cfg, Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer b.db.Close()
	for _, i := range []images.Image{{Name: bootSet, Kind: images.BootSet}, {Name: "rescue", Kind: images.Linux, Kernel: "vmlinuz", Up: images.Agent}} {
		if _, err := b.library.Add(i, map[string]io.Reader{"vmlinuz": strings.NewReader("kernel")}); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(cfg.State.Dir, "consoles")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "srv01.log"), []byte("2026-11-23T05:11:03.000Z  kernel panic\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run := b.serial.run(b.table)
	o, err := b.table.Arm("srv01", "rescue", "anna", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.table.Fail(o.ID, "nobody is there"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		if err := run(ctx, func() {}); err != nil {
			t.Error(err)
		}
	})
	for range 300 {
		list, err := b.table.Timeline(o.ID)
		if err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(list, func(e boot.Event) bool {
			return e.Step == boot.StepConsole && slices.Contains(e.Lines, "2026-11-23T05:11:03.000Z  kernel panic")
		}) {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Error("its console is not in the timeline")
}
