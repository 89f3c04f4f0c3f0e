package boottest

import (
	"cmp"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"rescuebox/appliance/admin/api"
)

// What scripts/bench tells the storm by: the LAN's namespace, whose bridge is "lan"; the
// box's socket; how many machines storm01, storm02 … there are; and the SHA-256 of the
// image storm's last file.
const (
	stormEnv    = "BOOTTEST_STORM"
	stormSocket = "BOOTTEST_SOCKET"
	stormCount  = "BOOTTEST_MACHINES"
	stormSum    = "BOOTTEST_SHA256"
)

// storm is many machines that boot at once.
type storm struct {
	lan      *LAN
	api      *api.Client
	machines int
	image    string
	sum      string
	real     bool // Debian's programs
	hurry    int
}

// TestStorm has all machines switched on in the same moment: each gets an
// address, its boot program by TFTP, its script and a large file over HTTP.
// It is small here; scripts/bench makes it 200 machines and 50 MB against the real daemon.
func TestStorm(t *testing.T) {
	s := outsideStorm(t)
	if s == nil {
		s = insideStorm(t)
	}
	took := s.boot(t)
	if len(took) == 0 {
		t.Fatal("no machine booted")
	}
	median, slowest := took[len(took)/2], took[len(took)-1]
	fmt.Printf("storm machines %d done %d median %d slowest %d ms\n", s.machines, len(took), median.Milliseconds(), slowest.Milliseconds())
	if !s.real {
		median += 2 * time.Second // what a small storm on a busy machine may vary by
	}
	if len(took) < s.machines || slowest > 3*median {
		t.Errorf("%d of %d machines booted, the slowest in %s, the median is %s", len(took), s.machines, slowest, median)
	}
}

// outsideStorm is what scripts/bench asks for, or nil.
func outsideStorm(t *testing.T) *storm {
	if os.Getenv(stormEnv) == "" {
		return nil
	}
	n, err := strconv.Atoi(os.Getenv(stormCount))
	if err != nil {
		t.Fatal(stormCount, err)
	}
	lan, err := OpenLAN(os.Getenv(stormEnv), "lan")
	if err != nil {
		t.Fatal(err)
	}
	return &storm{lan: lan, api: api.OverSocket(os.Getenv(stormSocket)), machines: n, image: "storm", sum: os.Getenv(stormSum), real: true}
}

func insideStorm(t *testing.T) *storm {
	const n = 24
	s := newSite(t, modes[0], stormMachines(n))
	return &storm{lan: s.lan, api: s.api, machines: n, image: "rescue", sum: sumOf(noise("amd64", initrdSize)), hurry: 4}
}

// stormMachines is a part of the file of the site.
func stormMachines(n int) string {
	var text strings.Builder
	for i := range n {
		fmt.Fprintf(&text, "[[machine]]\nname = \"storm%03d\"\nmac = [%q]\nchain = \"ipxe\"\n", i, stormMAC(i).String())
	}
	return text.String()
}

func stormMAC(i int) net.HardwareAddr {
	return net.HardwareAddr{0x52, 0x54, 0, 0x57, byte(i >> 8), byte(i)}
}

// boot switches all on and returns how long those took that have booted, in order.
func (s *storm) boot(t *testing.T) []time.Duration {
	machines := make([]*Machine, s.machines)
	for i := range machines {
		if _, err := s.api.Boot(t.Context(), api.NewOrder{Machine: fmt.Sprintf("storm%03d", i), Image: s.image, NoPower: true}); err != nil {
			t.Fatal(err)
		}
		card, err := s.lan.Plug(stormMAC(i))
		if err != nil {
			t.Fatal(err)
		}
		machines[i] = &Machine{Card: card, UUID: [16]byte{14: byte(i >> 8), 15: byte(i) + 1}, Discard: true, Real: s.real, Hurry: s.hurry}
	}
	var mu sync.Mutex
	var took []time.Duration
	var wg sync.WaitGroup
	for i, m := range machines {
		wg.Go(func() {
			out := m.PowerOn(stormPersonality(i))
			m.Card.Unplug()
			mu.Lock()
			defer mu.Unlock()
			if why := s.fault(out); why != "" {
				t.Errorf("storm%03d: %s", i, why)
				return
			}
			took = append(took, out.Took)
		})
	}
	wg.Wait()
	slices.SortFunc(took, cmp.Compare[time.Duration])
	return took
}

// stormPersonality makes every fourth machine a UEFI one.
func stormPersonality(i int) Personality {
	if i%4 == 3 {
		return Personality{Name: "EDK2 new", boot: func(m *Machine) error { return edk2(m, uefiX64, false) }}
	}
	return Personality{Name: "Intel UNDI", boot: undi}
}

// fault is why a boot does not count.
func (s *storm) fault(out Outcome) string {
	if out.Err != nil {
		return out.Err.Error()
	}
	if len(out.Complaints) > 0 {
		return out.Complaints[0]
	}
	if !slices.ContainsFunc(out.Loaded, func(f Loaded) bool { return f.SHA256 == s.sum }) {
		return "the last file did not come with its right SHA-256"
	}
	return ""
}
