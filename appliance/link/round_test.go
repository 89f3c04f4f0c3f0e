package link

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// crowd is a lab of uplinks where nothing answers, and whose tunnel may take its time.
type crowd struct {
	*lab
	takes time.Duration // to be put on another uplink
}

func (c *crowd) Use(uplink string) {
	c.mu.Lock()
	d := c.takes
	c.mu.Unlock()
	time.Sleep(d)
	c.lab.Use(uplink)
}

// Rounds that end while the loop is held up count all the same, however many they are: an uplink of which one was lost would
// never be asked again.
func TestRoundsEndTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &crowd{lab: newLab()}
		var list []Uplink
		for i := range 10 {
			name := fmt.Sprintf("u%02d", i)
			c.dead[name] = true
			list = append(list, Uplink{Name: name, Device: name, Metered: true, Check: 5 * time.Second, Probes: []Probe{{Kind: ICMP, Host: "192.0.2.1"}}})
		}
		w, err := New(Config{Uplinks: list, Tunnel: c})
		must(t, err)
		w.world = c
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			w.loop(ctx, func() {})
		}()
		for range 4 { // plugs come and go while rounds are under way
			time.Sleep(100 * time.Millisecond)
			for _, gone := range []bool{true, false} {
				for _, u := range list {
					c.set(c.gone, u.Name, gone)
				}
				w.look()
				for range 10 { // lost carriers are looked at one by one
					time.Sleep(time.Millisecond)
					w.look()
				}
			}
		}
		c.mu.Lock()
		c.takes = 20 * time.Second
		c.mu.Unlock()
		must(t, w.Fail(w.Status().Active, time.Hour))
		time.Sleep(10 * time.Second)
		c.mu.Lock()
		c.takes = 0
		clear(c.asked)
		c.mu.Unlock()
		time.Sleep(5 * time.Minute)
		c.mu.Lock()
		for _, u := range list {
			if c.asked[u.Name] == 0 {
				t.Errorf("%s is not asked any more", u.Name)
			}
		}
		c.mu.Unlock()
		cancel()
		<-done
	})
}
