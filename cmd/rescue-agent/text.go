package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"
)

// banner writes lines that a person sees from across the room among boot messages.
func banner(w io.Writer, lines ...string) {
	rule := strings.Repeat("=", 76)
	var b strings.Builder
	fmt.Fprintf(&b, "\r\n%s\r\n\r\n", rule)
	for _, l := range lines {
		fmt.Fprintf(&b, "    %s\r\n", l)
	}
	fmt.Fprintf(&b, "\r\n%s\r\n", rule)
	io.WriteString(w, b.String())
}

// short takes the method and URL out of an HTTP client's error.
func short(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// grow doubles a delay up to a limit.
func grow(d, limit time.Duration) time.Duration {
	if d *= 2; d > limit {
		return limit
	}
	return d
}

// sleep waits; false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
