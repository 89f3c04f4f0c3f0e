package dhcp

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics count what happens. Labels have few values: nothing that a client
// sends becomes one.
type metrics struct {
	received  *prometheus.CounterVec
	sent      *prometheus.CounterVec
	dropped   *prometheus.CounterVec
	sendFails prometheus.Counter
	panics    prometheus.Counter
	conflicts prometheus.Counter
	others    prometheus.Counter
	boots     *prometheus.CounterVec
	modes     *prometheus.GaugeVec
	addresses *prometheus.GaugeVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	f := promauto.With(r)
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Name: "rescuebox_dhcp_" + name, Help: help})
	}
	vec := func(name, help, label string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts{Name: "rescuebox_dhcp_" + name, Help: help}, []string{label})
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return f.NewGaugeVec(prometheus.GaugeOpts{Name: "rescuebox_dhcp_" + name, Help: help}, labels)
	}
	return &metrics{
		received:  vec("received_total", "Requests by message type.", "type"),
		sent:      vec("sent_total", "Replies by message type.", "type"),
		dropped:   vec("dropped_total", "Requests that got no reply, by reason.", "reason"),
		sendFails: counter("send_failures_total", "Replies that could not be sent."),
		panics:    counter("panics_total", "Requests whose handling panicked. Each is a bug."),
		conflicts: counter("conflicts_total", "Addresses that were in use when they were probed, or declined."),
		others:    counter("other_server_answers_total", "Answers of other DHCP servers that were seen."),
		boots:     vec("boot_clients_total", "Boot clients by what they were told: offered, local, refused.", "answer"),
		modes:     gauge("mode", "1 for the mode that the part is in.", "mode"),
		addresses: gauge("addresses", "Addresses by network and state.", "network", "state"),
	}
}

func (m *metrics) mode(now Mode) {
	for _, one := range []Mode{Full, Proxy, Listening} {
		v := 0.0
		if one == now {
			v = 1
		}
		m.modes.WithLabelValues(string(one)).Set(v)
	}
}

func (m *metrics) pools(list []PoolStatus) {
	for _, p := range list {
		set := func(state string, n int) { m.addresses.WithLabelValues(p.Network.String(), state).Set(float64(n)) }
		set("size", p.Size)
		set("kept_for_known", p.Reserved)
		set("bound", p.Bound)
		set("offered", p.Offered)
		set("quarantined", p.Quarantined)
	}
}
