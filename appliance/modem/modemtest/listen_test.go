package modemtest

import (
	"bytes"
	"io"
	"os"
	"syscall"
	"testing"
	"time"
)

// The last words of a program come, however late they are heard: what waits for them may stand still meanwhile.
func TestLastWordsAreHeardLate(t *testing.T) {
	master, name, err := openPTY(false)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	slave, err := os.OpenFile(name, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(slave, "goodbye"); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	ended := make(chan struct{})
	close(ended)
	_ = master.(interface{ SetReadDeadline(time.Time) error }).SetReadDeadline(time.Now().Add(-time.Second)) // it stood still
	var heard bytes.Buffer
	listen(&heard, master, ended)
	if heard.String() != "goodbye" {
		t.Errorf("heard %q", heard.String())
	}
}
