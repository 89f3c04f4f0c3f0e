package modemtest_test

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"

	"rescuebox/appliance/modem/modemtest"
)

// What waits for room in the store comes in the order in which it was sent, however fast room is made.
func TestWaitingTextsKeepTheirOrder(t *testing.T) {
	fake := modemtest.New()
	fake.Capacity = 3
	if err := fake.Open(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	defer fake.Close()
	f, err := os.OpenFile(fake.Path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const many = 201
	for i := range many {
		fake.DeliverPDU(fmt.Appendf([]byte{0}, "%04d", i))
	}
	r := bufio.NewReader(f)
	var came []string
	for len(came) < many {
		if _, err := f.WriteString("AT+CMGL=4;+CMGD=1;+CMGD=2;+CMGD=3\r"); err != nil {
			t.Fatal(err)
		}
		for line := ""; !strings.HasPrefix(line, "OK"); {
			if line, err = r.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(line, "003") { // no service centre, then digits
				came = append(came, strings.TrimSpace(line))
			}
		}
	}
	for i, pdu := range came {
		if want := fmt.Sprintf("00%X", fmt.Sprintf("%04d", i)); pdu != want {
			t.Fatalf("place %d has %s, want %s", i, pdu, want)
		}
	}
}
