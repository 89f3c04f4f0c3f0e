package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// boxClient asks the box, and proves with the order's token who asks.
type boxClient struct {
	order  order
	client *http.Client
}

// newClient is for requests that are minutes apart, from a machine whose cable
// somebody may move in between: each has a connection of its own. Nothing but the
// box is asked: no proxy of the environment, no other server it might point to.
func newClient() *http.Client {
	return &http.Client{
		Timeout:   20 * time.Second,
		Transport: &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}
}

func (b boxClient) do(ctx context.Context, method, path, kind string, body []byte) (*http.Response, error) {
	u := *b.order.Server
	u.Path = strings.TrimSuffix(u.Path, "/") + path
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "rescue-agent/"+version)
	if body != nil {
		req.Header.Set("Content-Type", kind)
	}
	if b.order.Token != "" {
		req.Header.Set("Authorization", "Bearer "+b.order.Token)
	}
	return b.client.Do(req)
}

// send wants no answer but a yes. What names the body in the error.
func (b boxClient) send(ctx context.Context, method, path, kind, what string, body []byte) error {
	res, err := b.do(ctx, method, path, kind, body)
	if err != nil {
		return fmt.Errorf("send %s to the box: %w", what, short(err))
	}
	defer res.Body.Close()
	if res.StatusCode/100 == 2 {
		return nil
	}
	text, _ := io.ReadAll(io.LimitReader(res.Body, 300))
	return &refusal{fmt.Sprintf("the box refuses %s (%s): %s", what, res.Status, printable(strings.TrimSpace(string(text))))}
}

// refusal is an answer in which the box says no.
type refusal struct{ text string }

func (e *refusal) Error() string { return e.text }
