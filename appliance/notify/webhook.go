package notify

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Webhook POSTs messages as JSON, signed as the Standard Webhooks
// specification has it (github.com/standard-webhooks/standard-webhooks), for which every language
// has a library that checks them: webhook-id, webhook-timestamp, and webhook-signature, the
// HMAC-SHA256 of "id.timestamp.body".
//
// 2xx is done. What a receiver says of the letter itself (410, 413, 422) is final. All else
// is tried again, as Retry-After asks: 404 is also what a proxy says of a service that is just
// being started, and 401 who does not trust the clock of a box that has none; and who
// corrects an address or a key wants what waits to go.
type Webhook struct {
	// URL may hold a secret, as those of Slack, Mattermost or Telegram do;
	// it is shown without its path.
	URL        string
	URLFile    string // the file with the URL, in place of URL
	SecretFile string // "": not signed
	CAFile     string // PEM: trusted beside the system's own

	client func() (*http.Client, error) // tests may set it
}

// Limits of a webhook's receiver.
const (
	webhookTimeout = 30 * time.Second
	maxAnswer      = 16 << 10 // read of an answer, so that the connection can be used again
)

// webhookBody is what is posted.
type webhookBody struct {
	ID      string    `json:"id"`
	Kind    Kind      `json:"kind"`
	Site    string    `json:"site"`
	Machine string    `json:"machine,omitempty"`
	Image   string    `json:"image,omitempty"`
	Order   string    `json:"order,omitempty"`
	Time    time.Time `json:"time"`
	Subject string    `json:"subject"`
	Text    string    `json:"text"` // what Slack and Mattermost show
	Short   string    `json:"short"`
	Weak    bool      `json:"unverified,omitempty"`
	Secret  string    `json:"secret,omitempty"`
}

// Addresses is the one that there is, under a name that stays when the URL is
// corrected: what waits goes to the right one then. And the store need not have the URL.
func (w *Webhook) Addresses() []string { return []string{"url"} }

// Show is the receiver's host.
func (w *Webhook) Show(string) string {
	u, err := w.url()
	if err != nil {
		return "webhook"
	}
	return u.Scheme + "://" + u.Host
}

// Send posts one letter.
func (w *Webhook) Send(ctx context.Context, l Letter, mark func()) error {
	ctx, cancel := context.WithTimeout(ctx, webhookTimeout)
	defer cancel()
	req, err := w.request(ctx, l, time.Now())
	if err != nil {
		return err
	}
	client, err := w.httpClient()
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	marked := false
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) {
		mark()
		marked = true
	}}
	resp, err := client.Do(req.WithContext(httptrace.WithClientTrace(ctx, trace)))
	if err != nil {
		err = fmt.Errorf("post to %s: %w", w.Show(""), withoutURL(err))
		if marked {
			return &Unsure{err}
		}
		return err
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer))
	return w.verdict(resp, time.Now())
}

// request is the signed request.
func (w *Webhook) request(ctx context.Context, l Letter, now time.Time) (*http.Request, error) {
	to, err := w.url()
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(webhookBody{ID: l.ID, Kind: l.Kind, Site: l.Site, Machine: l.Machine, Image: l.Image, Order: l.Order,
		Time: l.Time, Subject: l.Subject, Text: l.Words.Text, Short: l.Short, Weak: l.Weak, Secret: l.Secret})
	if err != nil {
		return nil, fmt.Errorf("write the message: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.String(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("webhook %s: %w", w.Show(""), withoutURL(err))
	}
	req.GetBody = nil // the transport must not send it a second time by itself
	stamp := strconv.FormatInt(now.Unix(), 10)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "rescuebox")
	req.Header.Set("Webhook-Id", l.ID)
	req.Header.Set("Webhook-Timestamp", stamp)
	if w.SecretFile == "" {
		return req, nil
	}
	key, err := webhookKey(w.SecretFile)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Webhook-Signature", Sign(key, l.ID, stamp, body))
	return req, nil
}

// Sign is the value of the header webhook-signature.
func Sign(key []byte, id, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.", id, timestamp)
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// webhookKey reads the key: the specification's whsec_ and base64, or any text.
func webhookKey(file string) ([]byte, error) {
	text, err := readSecret(file)
	if err != nil {
		return nil, err
	}
	encoded, ok := strings.CutPrefix(text, "whsec_")
	if !ok {
		return []byte(text), nil
	}
	key, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil { // its text would hold a piece of the key
		return nil, fmt.Errorf("secret in %s begins with whsec_, but what follows is no base64", file)
	}
	return key, nil
}

// url is where to post.
func (w *Webhook) url() (*url.URL, error) {
	text := w.URL
	if w.URLFile != "" {
		var err error
		if text, err = readSecret(w.URLFile); err != nil {
			return nil, err
		}
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return nil, fmt.Errorf("no address of a webhook: want https://HOST/…%s", inFile(w.URLFile))
	}
	return u, nil
}

func inFile(name string) string {
	if name == "" {
		return ""
	}
	return " in " + name
}

// httpClient follows no redirection: the message would go to somebody whom nobody named.
func (w *Webhook) httpClient() (*http.Client, error) {
	if w.client != nil {
		return w.client()
	}
	conf, err := tlsConfig(w.CAFile, "")
	if err != nil {
		return nil, err
	}
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: 15 * time.Second}).DialContext,
			TLSClientConfig:        conf,
			TLSHandshakeTimeout:    15 * time.Second,
			MaxResponseHeaderBytes: 32 << 10,
			DisableKeepAlives:      true,
		},
	}, nil
}

// verdict says what an answer means. Its text is not shown: it may repeat what was sent.
func (w *Webhook) verdict(resp *http.Response, now time.Time) error {
	code := resp.StatusCode
	err := fmt.Errorf("%s answers %d %s", w.Show(""), code, http.StatusText(code))
	switch {
	case code >= 200 && code < 300:
		return nil
	case code == http.StatusGone, code == http.StatusRequestEntityTooLarge, code == http.StatusUnprocessableEntity:
		return &Refused{err}
	case code >= 300 && code < 400:
		return fmt.Errorf("%w, and redirections are not followed: name the address that it redirects to", err)
	}
	if after := retryAfter(resp.Header.Get("Retry-After"), now); after > 0 {
		return &Later{after, err}
	}
	return err
}

// retryAfter reads the header Retry-After (RFC 9110, section 10.2.3): seconds or a date.
func retryAfter(text string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(text, 10, 63); err == nil {
		return time.Duration(min(n, uint64(maxLater/time.Second))) * time.Second
	}
	if t, err := http.ParseTime(text); err == nil {
		return max(0, min(t.Sub(now), maxLater))
	}
	return 0
}

// withoutURL is an error of the HTTP client without the URL, which may hold a secret.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
