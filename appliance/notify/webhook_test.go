package notify

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func letter(t *testing.T) Letter {
	t.Helper()
	m := news("ticket-1")
	m.Site, m.Time = "Казань-2", time.Unix(1e9, 0).UTC()
	w, err := m.Words()
	if err != nil {
		t.Fatal(err)
	}
	return Letter{ID: "0123456789abcdef", Message: m, Words: w}
}

func write(t *testing.T, text string) string {
	t.Helper()
	f := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return f
}

// What a receiver gets, and that it can check who sent it. The signature is that of the
// specification's own example.
func TestWebhook(t *testing.T) {
	key, err := webhookKey(write(t, "whsec_plJ3nmyCDGBKInavdOK15jsl\n"))
	if err != nil {
		t.Fatal(err)
	}
	got := Sign(key, "msg_loFOjxBNrRLzqYUf", "1731705121", []byte(`{"event_type":"ping","data":{"success":true}}`))
	if want := "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0="; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	for secret, key := range map[string]string{"a plain secret\n": "a plain secret", "whsec_c2VjcmV0IGJ5dGVz": "secret bytes"} {
		var got *http.Request
		var body []byte
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			got = r
			body, _ = io.ReadAll(r.Body)
			w.WriteHeader(http.StatusAccepted)
		}))
		w := &Webhook{URL: srv.URL + "/hooks/s3cret?token=s3cret", SecretFile: write(t, secret)}
		marked := 0
		if err := w.Send(t.Context(), letter(t), func() { marked++ }); err != nil || marked != 1 {
			t.Fatalf("%v, marked %d times", err, marked)
		}
		srv.Close()
		h := got.Header
		if want := Sign([]byte(key), "0123456789abcdef", h.Get("Webhook-Timestamp"), body); h.Get("Webhook-Signature") != want || h.Get("Webhook-Id") != "0123456789abcdef" {
			t.Errorf("headers %v, want the signature %s", h, want)
		}
		var doc map[string]any
		if err := json.Unmarshal(body, &doc); err != nil || doc["site"] != "Казань-2" || doc["kind"] != "ticket" || doc["machine"] != "srv01" ||
			doc["id"] != "0123456789abcdef" || !strings.Contains(doc["text"].(string), "can be taken over") || doc["time"] != "2001-09-09T01:46:40Z" {
			t.Errorf("%v: %s", err, body)
		}
		if got.Method != "POST" || got.URL.RequestURI() != "/hooks/s3cret?token=s3cret" || h.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s %v", got.Method, got.URL, h)
		}
	}
}

// What each kind of answer, and of failure, means; and none of the errors shows a secret.
func TestWebhookAnswers(t *testing.T) {
	arrived := make(chan struct{}) // where the receiver hangs
	answers := map[string]http.HandlerFunc{
		"200": func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(200) },
		"204": func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204) },
		"400": func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(400); io.WriteString(w, "no s3cret") },
		"404": func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(404) },
		"401": func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(401) },
		"408": func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(408) },
		"410": func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(410) },
		"413": func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(413) },
		"429": func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Retry-After", "120"); w.WriteHeader(429) },
		"500": func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) },
		"503": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", "soon")
			w.WriteHeader(503)
		},
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/elsewhere" {
				t.Error("the redirection was followed")
			}
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		},
		"redirect with the body": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusPermanentRedirect)
		},
		"hangs up": func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) },
		"hangs": func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			close(arrived)
			<-r.Context().Done()
		},
		"endless": func(w http.ResponseWriter, r *http.Request) {
			for {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		},
	}
	wants := map[string]string{"200": "sent", "204": "sent", "400": "again", "401": "again", "404": "again", "408": "again", "410": "refused", "413": "refused", "429": "later", "500": "again",
		"503": "again", "redirect": "again", "redirect with the body": "again", "hangs up": "unsure", "hangs": "unsure", "endless": "sent"}
	for name, want := range wants {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(answers[name])
			defer srv.Close()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if name == "hangs" {
				go func() { <-arrived; cancel() }()
			}
			err := (&Webhook{URL: strings.Replace(srv.URL, "http://", "http://me:s3cret@", 1) + "/s3cret?s3cret"}).Send(ctx, letter(t), func() {})
			if got := verdictOf(err); got != want {
				t.Errorf("%s (%v), want %s", got, err, want)
			}
			if err != nil && strings.Contains(err.Error(), "s3cret") {
				t.Errorf("the error shows the secret: %v", err)
			}
			var later *Later
			if errors.As(err, &later) && later.After != 2*time.Minute {
				t.Errorf("again after %s", later.After)
			}
		})
	}
}

// verdictOf names what an error means.
func verdictOf(err error) string {
	var refused *Refused
	var later *Later
	var unsure *Unsure
	switch {
	case err == nil:
		return "sent"
	case errors.As(err, &refused):
		return "refused"
	case errors.As(err, &later):
		return "later"
	case errors.As(err, &unsure):
		return "unsure"
	}
	return "again"
}

// Nobody answers, or somebody whom nobody trusts: nothing was sent, and nothing is in doubt.
func TestWebhookTrust(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	defer srv.Close()
	marked := false
	send := func(w *Webhook) error { return w.Send(t.Context(), letter(t), func() { marked = true }) }
	if err := send(&Webhook{URL: srv.URL}); verdictOf(err) != "again" || marked || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a certificate that nobody trusts: %v, marked %v", err, marked)
	}
	ca := write(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})))
	if err := send(&Webhook{URL: srv.URL, CAFile: ca}); err != nil || !marked {
		t.Errorf("trusted by file: %v", err)
	}
	marked = false
	gone := httptest.NewServer(nil)
	gone.Close()
	if err := send(&Webhook{URL: gone.URL + "/s3cret"}); verdictOf(err) != "again" || marked || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("nobody there: %v, marked %v", err, marked)
	}
}

// Secrets come from files, are read when they are needed, and are in no error.
func TestWebhookFiles(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	defer srv.Close()
	file := write(t, srv.URL+"/hooks/s3cret\n")
	w := &Webhook{URLFile: file}
	if err := w.Send(t.Context(), letter(t), func() {}); err != nil {
		t.Error(err)
	}
	if got := w.Show(w.Addresses()[0]); got != srv.URL {
		t.Errorf("shown as %s", got)
	}
	for name, w := range map[string]*Webhook{
		"no file": {URLFile: "/nonexistent/file"}, "empty": {URLFile: write(t, "\n")}, "no address": {URLFile: write(t, "hooks/s3cret")},
		"control characters": {URLFile: write(t, "https://example.org/s3cret\x01")}, "port": {URLFile: write(t, "https://example.org:s3cret/")},
		"secret without a file": {URL: srv.URL, SecretFile: "/nonexistent/file"}, "directory": {URL: srv.URL, SecretFile: t.TempDir()},
		"no base64": {URL: srv.URL, SecretFile: write(t, "whsec_s3cret!")}, "no certificates": {URL: srv.URL, CAFile: write(t, "s3cret")},
	} {
		err := w.Send(t.Context(), letter(t), func() { t.Errorf("%s: something was sent", name) })
		if verdictOf(err) != "again" || strings.Contains(err.Error(), "s3cret") || len(err.Error()) > 200 {
			t.Errorf("%s: %v", name, err)
		}
		if shown := w.Show(""); strings.Contains(shown, "s3cret") {
			t.Errorf("%s: shown as %s", name, shown)
		}
	}
}

// Who corrects a webhook's address wants what waits to go to the right one; and the
// store knows no address, which may be a secret.
func TestWebhookPutRight(t *testing.T) {
	got := make(chan string, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/right/s3cret" {
			got <- r.Header.Get("Webhook-Id")
			return
		}
		http.NotFound(w, r)
	}))
	defer srv.Close()
	store := &memory{}
	outbox := func(path string) *Outbox {
		return &Outbox{Store: store, Targets: []Target{{Name: "chat", Sender: &Webhook{URL: srv.URL + path}}}}
	}
	o := outbox("/wrong/s3cret")
	stop := running(t, o)
	if err := o.Put(news("1")); err != nil {
		t.Fatal(err)
	}
	for o.List()[0].Deliveries[0].Attempts == 0 {
		time.Sleep(10 * time.Millisecond)
	}
	stop()
	if d := o.List()[0].Deliveries[0]; d.State != Waiting || !strings.Contains(d.Error, "404") {
		t.Errorf("%+v", d)
	}
	if docs := fmt.Sprintf("%+v", store.docs); strings.Contains(docs, "s3cret") {
		t.Errorf("the store has the address: %s", docs)
	}
	defer running(t, outbox("/right/s3cret"))()
	select {
	case <-got:
	case <-time.After(30 * time.Second):
		t.Error("not told")
	}
}
