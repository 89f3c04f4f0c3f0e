package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// content is what the box serves in these tests.
var content = bytes.Repeat([]byte("rescue system "), 100_000)

// flaky is a box that fails in the ways listed, one per request, then serves well.
type flaky struct {
	ways   []func(http.ResponseWriter, *http.Request)
	ranges []string // Range and If-Range of every request
	tokens []string
}

func (f *flaky) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.ranges = append(f.ranges, strings.TrimSpace(r.Header.Get("Range")+" "+r.Header.Get("If-Range")))
	f.tokens = append(f.tokens, r.Header.Get("Authorization"))
	if len(f.ways) > 0 {
		way := f.ways[0]
		f.ways = f.ways[1:]
		way(w, r)
		return
	}
	serve(content, `"v1"`)(w, r)
}

func serve(b []byte, etag string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Etag", etag)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
	}
}

// breakAfter sends n bytes of the whole and cuts the connection.
func breakAfter(n int, etag string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Etag", etag)
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		w.Write(content[:n])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
}

// hang sends n bytes and then nothing.
func hang(n int) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Etag", `"v1"`)
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		w.Write(content[:n])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
}

func refuse(w http.ResponseWriter, r *http.Request) {
	http.Error(w, "no order for this machine\x1b[2J", http.StatusForbidden)
}

// breakThenRefuse sends a part of the file once, and then only refuses.
func breakThenRefuse() func(http.ResponseWriter, *http.Request) {
	first := breakAfter(300_000, `"v1"`)
	n := 0
	return func(w http.ResponseWriter, r *http.Request) {
		if n++; n == 1 {
			first(w, r)
			return
		}
		refuse(w, r)
	}
}

func TestFetch(t *testing.T) {
	other := append([]byte("other "), content...)
	type way = func(http.ResponseWriter, *http.Request)
	tests := []struct {
		name   string
		ways   []way
		ranges []string
		says   string // on the console
	}{
		{"at once", nil, []string{""}, "rescuebox: fetching the rescue system from 127.0.0.1:"},
		{"refused first", []way{refuse}, []string{"", ""}, "the box answers 403 Forbidden: no order for this machine?[2J"},
		{"broken, then resumed", []way{breakAfter(300_000, `"v1"`)}, []string{"", `bytes=300000- "v1"`}, "the connection broke after 0 of 1 MB"},
		{"broken twice", []way{breakAfter(300_000, `"v1"`), refuse}, []string{"", `bytes=300000- "v1"`, `bytes=300000- "v1"`}, "403"},
		{"changed meanwhile", []way{breakAfter(300_000, `"v0"`)}, []string{"", `bytes=300000- "v0"`}, "SHA-256 is right"},
		{"wrong hash", []way{serve(other, `"v2"`)}, []string{"", ""}, "THE RESCUE SYSTEM ARRIVED DAMAGED (wrong SHA-256)"},
		{"stalled", []way{hang(200_000)}, []string{"", `bytes=200000- "v1"`}, "the connection broke"},
		{"silent", []way{func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }}, []string{"", ""}, "trying again"},
		{"shrunk meanwhile", []way{breakAfter(300_000, `"v1"`), serve(content[:10], `"v1"`)},
			[]string{"", `bytes=300000- "v1"`, ""}, "shorter file"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			box := &flaky{ways: tt.ways}
			out, got, err := fetchFrom(t, box)
			if err != nil || !bytes.Equal(got, content) {
				t.Fatalf("%d bytes, %v, console:\n%s", len(got), err, out)
			}
			if fmt.Sprint(box.ranges) != fmt.Sprint(tt.ranges) {
				t.Errorf("asked for %q, want %q", box.ranges, tt.ranges)
			}
			if !strings.Contains(out, tt.says) {
				t.Errorf("the console does not say %q:\n%s", tt.says, out)
			}
			if strings.Contains(out, "secret") || box.tokens[0] != "Bearer secret" {
				t.Errorf("token: the box got %q, the console says\n%s", box.tokens[0], out)
			}
		})
	}
}

func fetchFrom(t *testing.T, box http.Handler) (console string, got []byte, err error) {
	t.Helper()
	srv := httptest.NewServer(box)
	defer srv.Close()
	sum := sha256.Sum256(content)
	u, _ := url.Parse(srv.URL + "/root.squashfs")
	path := filepath.Join(t.TempDir(), "root")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out bytes.Buffer
	d := &download{
		order: order{URL: u, SHA256: hex.EncodeToString(sum[:]), Token: "secret"},
		out:   &out, file: f, stall: 4 * time.Second, retry: time.Millisecond,
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err = d.run(ctx)
	got, _ = os.ReadFile(path)
	return out.String(), got, err
}

func TestFetchEnds(t *testing.T) {
	for name, way := range map[string]func(http.ResponseWriter, *http.Request){
		"the order is gone":         refuse,
		"the image was built anew":  serve([]byte("another image"), `"v2"`),
		"gone after a broken start": breakThenRefuse(),
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(way))
			defer srv.Close()
			f, err := os.Create(filepath.Join(t.TempDir(), "root"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			u, _ := url.Parse(srv.URL)
			d := &download{order: order{URL: u, SHA256: strings.Repeat("0", 64)}, out: &bytes.Buffer{}, file: f,
				stall: time.Second, retry: time.Millisecond, patient: 20 * time.Millisecond}
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			var gone *withdrawn
			if err := d.run(ctx); !errors.As(err, &gone) {
				t.Errorf("got %v, want the end of trying", err)
			}
		})
	}
	t.Run("without a hash", func(t *testing.T) {
		var bad *badCmdline
		u, _ := url.Parse("http://127.0.0.1:1/x")
		if err := fetchRoot(context.Background(), order{URL: u}, filepath.Join(t.TempDir(), "x"), os.Stderr); !errors.As(err, &bad) {
			t.Errorf("fetched without a hash to check: %v", err)
		}
	})
	t.Run("memory full", func(t *testing.T) {
		f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Skip("no /dev/full here")
		}
		defer f.Close()
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write(content) }))
		defer srv.Close()
		u, _ := url.Parse(srv.URL)
		d := &download{order: order{URL: u, SHA256: "x"}, out: &bytes.Buffer{}, file: f, stall: time.Second, retry: time.Millisecond}
		if err := d.run(context.Background()); err == nil || !strings.Contains(err.Error(), "at least 1 GB of RAM") {
			t.Errorf("a full memory: %v", err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		u, _ := url.Parse("http://127.0.0.1:1/x")
		d := &download{order: order{URL: u, SHA256: "x"}, out: &bytes.Buffer{}, stall: time.Second, retry: time.Hour}
		if err := d.run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	})
}
