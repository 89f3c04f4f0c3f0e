package vpn

import (
	"runtime"
	"testing"

	"rescuebox/appliance/link/linktest"
)

// The main goroutine keeps the main thread: a process's network namespace is that thread's
// (/proc/self/ns/net), and the world changes the namespace of threads that it takes to be
// thrown away, which this one never is. Only an init comes before another goroutine has it.
func init() { runtime.LockOSThread() }

func TestMain(m *testing.M) { linktest.Main(m) }
