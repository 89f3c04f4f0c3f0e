package modem

import (
	"flag"
	"os"
	"strconv"
	"testing"
)

// atOnce are the tests that run at the same time: they wait for modems, and compute next to nothing.
const atOnce = 12

func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue { // whoever names a number gets it
		_ = flag.Set("test.parallel", strconv.Itoa(atOnce))
	}
	os.Exit(m.Run())
}
