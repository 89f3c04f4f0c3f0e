package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// errandFile is what the box lays beside the agent, in \Windows\System32.
const errandFile = "rescue-agent.json"

// errand is what the agent is there for in a Windows PE.
type errand struct {
	order
	ID   string // of the box's order
	DaRT bool   // RemoteRecovery.exe makes the ticket; else this machine serves SSH
}

// errErrand is the error of a file that is not the box's.
var errErrand = errors.New(errandFile + " is damaged: boot this machine again")

// readErrand reads the file; one that is not there is fs.ErrNotExist.
func readErrand(path string) (errand, error) {
	f, err := os.Open(path)
	if err != nil {
		return errand{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		return errand{}, fmt.Errorf("read %s: %w", errandFile, err)
	}
	return parseErrand(b)
}

// parseErrand reads rescue-agent.json. Its errors show nothing of it: the token is in there.
func parseErrand(b []byte) (errand, error) {
	var w struct {
		Server  string `json:"server"`
		Token   string `json:"token"`
		Machine string `json:"machine"`
		Order   string `json:"order"`
		DaRT    bool   `json:"dart"`
	}
	// An admin who tries things out writes it with Notepad, which puts a mark first.
	if json.Unmarshal(bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")), &w) != nil {
		return errand{}, errErrand
	}
	server, err := parseURL("server", w.Server)
	if err != nil {
		return errand{}, errErrand
	}
	token, err := parseToken(w.Token)
	if err != nil {
		return errand{}, errErrand
	}
	return errand{
		order: order{Server: server, Token: token, Machine: printable(w.Machine)},
		ID:    printable(w.Order), DaRT: w.DaRT,
	}, nil
}
