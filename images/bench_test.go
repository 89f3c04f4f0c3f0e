package images

import (
	"testing"
	"time"
)

// A boot asks for the image with every packet and file.
func BenchmarkGet(b *testing.B) {
	l := &Library{Dir: b.TempDir()}
	addTest(b, l, "rescue", "kernel")
	time.Sleep(2 * settled)
	for b.Loop() {
		if _, err := l.Get("rescue"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	l := &Library{Dir: b.TempDir()}
	i := addTest(b, l, "rescue", "kernel")
	time.Sleep(2 * settled)
	for b.Loop() {
		f, _, err := l.Open(i, "vmlinuz")
		if err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}
