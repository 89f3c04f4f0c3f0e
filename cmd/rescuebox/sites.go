package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"rescuebox/appliance/admin/api"
)

// site is a box elsewhere that somebody logged in to.
type site struct {
	URL         string `json:"url"`
	Fingerprint string `json:"fingerprint"`
	Token       string `json:"token"`
}

// sites are the boxes by name, kept in a file that only its owner can read.
type sites map[string]site

// sitesPath is where the sites are kept.
func sitesPath() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("find the user's configuration directory: %w", err)
	}
	return filepath.Join(dir, "rescuebox", "sites.json"), nil
}

// loadSites reads the sites; there may be none.
func loadSites() (sites, error) {
	path, err := sitesPath()
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return sites{}, nil
	}
	if err != nil {
		return nil, err
	}
	s := sites{}
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, hinted(fmt.Errorf("read %s: %w", path, err), "remove the file and log in again")
	}
	return s, nil
}

// save writes the sites whole or not at all.
func (s sites) save() error {
	path, err := sitesPath()
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".sites-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(text, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(f.Name(), path)
}

// names is for hints.
func (s sites) names() string {
	return strings.Join(slices.Sorted(maps.Keys(s)), ", ")
}

// client is a client of one of the sites.
func (s sites) client(name string) (*api.Client, error) {
	at, ok := s[name]
	if !ok {
		err := fmt.Errorf("no site %q", name)
		if len(s) == 0 {
			return nil, hinted(err, "log in first: rescuebox login https://HOST:PORT")
		}
		return nil, hinted(err, "sites are %s", s.names())
	}
	return api.OverTLS(at.URL, at.Fingerprint, at.Token)
}

// connect makes the client that flags and environment ask for. Without either it
// is the daemon on this box, or else the one site that somebody logged in to.
func (c *cli) connect() (*api.Client, error) {
	name, socket := c.site, c.socket
	if name != "" && socket != "" {
		return nil, usagef("--site and --socket name two boxes: give one of them")
	}
	if name == "" && socket == "" {
		name, socket = os.Getenv("RESCUEBOX_SITE"), os.Getenv("RESCUEBOX_SOCKET")
	}
	if name == "" && socket != "" {
		return api.OverSocket(socket), nil
	}
	if name == "" {
		if _, err := os.Stat(defaultSocket); err == nil {
			return api.OverSocket(defaultSocket), nil
		}
	}
	all, err := loadSites()
	if err != nil {
		return nil, err
	}
	if name == "" && len(all) == 0 {
		return api.OverSocket(defaultSocket), nil
	}
	if name == "" && len(all) > 1 {
		return nil, &usageError{hinted(errors.New("several sites are known"), "choose one with --site: %s", all.names())}
	}
	for only := range all {
		name = cmp.Or(name, only)
	}
	return all.client(name)
}
