package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Error is an answer of the daemon that is no success.
type Error struct {
	Code    string `json:"code"`  // a word for programs, such as not_found
	Message string `json:"error"` // one sentence
	Hint    string `json:"hint,omitempty"`
	Status  int    `json:"-"` // of HTTP
	// RetryAfter says when to try again, after too many failures.
	RetryAfter time.Duration `json:"-"`
}

// Unconfirmed is the code of an order that would pull a machine's plug, or of a question that would cost money, and does not
// say that this is meant.
const Unconfirmed = "unconfirmed"

func (e *Error) Error() string { return e.Message }

// maxAnswer bounds what the client reads as one answer.
const maxAnswer = 16 << 20

// Client calls the daemon. Make one with OverSocket or OverTLS.
type Client struct {
	base   string // http://rescuebox or https://host:port, without a slash behind
	token  string
	where  string // for errors: the socket's path or the URL
	client *http.Client
}

// Where names what the client talks to, for people.
func (c *Client) Where() string { return c.where }

// do sends in, if it is not nil, and reads the answer into out, if it is not nil.
func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("write the request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	resp, err := c.send(ctx, method, path, body, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		_, err := io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer))
		return err
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("read the answer of %s: %w", c.where, err)
	}
	return nil
}

// send sends one request; an answer that is no success becomes an *Error.
func (c *Client) send(ctx context.Context, method, path string, body io.Reader, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return nil, c.reachError(err)
	}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		return nil, readError(resp)
	}
	return resp, nil
}

// ErrUnreachable is in the errors of a daemon that does not answer.
var ErrUnreachable = errors.New("the daemon does not answer")

// reachError says what a person should look at when nothing answers.
func (c *Client) reachError(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // without the URL of requests over the socket, which exists nowhere
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, errFingerprint) {
		return err
	}
	return fmt.Errorf("%w at %s: %w", ErrUnreachable, c.where, err)
}

// readError reads an answer that is no success.
func readError(resp *http.Response) error {
	e := &Error{Status: resp.StatusCode}
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if json.Unmarshal(b, e) != nil || e.Message == "" {
		*e = Error{Message: "the daemon answered " + strconv.Quote(resp.Status), Code: "unknown"}
	}
	e.Status = resp.StatusCode
	if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && n > 0 {
		e.RetryAfter = time.Duration(n) * time.Second
	}
	return e
}

// get reads one document.
func get[T any](ctx context.Context, c *Client, path string) (T, error) {
	var v T
	err := c.do(ctx, http.MethodGet, path, nil, &v)
	return v, err
}

// query writes a query string of the values that are not empty.
func query(pairs ...string) string {
	v := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" && pairs[i+1] != "0" {
			v.Set(pairs[i], pairs[i+1])
		}
	}
	if len(v) == 0 {
		return ""
	}
	return "?" + v.Encode()
}

// segment escapes a name as one segment of a path. "." and ".." have no
// escape that survives the cleaning of paths; no name of ours is one of them.
func segment(name string) string {
	if strings.Trim(name, ".") == "" {
		return url.PathEscape("_" + name)
	}
	return url.PathEscape(name)
}
