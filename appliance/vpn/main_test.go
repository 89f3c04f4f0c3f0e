package vpn

import (
	"testing"

	"rescuebox/appliance/link/linktest"
)

func TestMain(m *testing.M) { linktest.Main(m) }
