package link

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics count what happens. Labels are names of uplinks and healths only.
type metrics struct {
	health   *prometheus.GaugeVec
	active   *prometheus.GaugeVec
	rtt      *prometheus.GaugeVec
	silent   prometheus.Gauge
	switches *prometheus.CounterVec
	rounds   *prometheus.CounterVec
	pings    prometheus.Counter
	doubts   prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	f := promauto.With(r)
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return f.NewGaugeVec(prometheus.GaugeOpts{Name: "rescuebox_link_" + name, Help: help}, labels)
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts{Name: "rescuebox_link_" + name, Help: help}, labels)
	}
	return &metrics{
		health:   gauge("uplink_health", "1 for the health that the uplink is in.", "uplink", "health"),
		active:   gauge("uplink_active", "1 for the uplink that the tunnel uses.", "uplink"),
		rtt:      gauge("uplink_rtt_seconds", "How long the uplink's own probes take.", "uplink"),
		silent:   f.NewGauge(prometheus.GaugeOpts{Name: "rescuebox_link_hub_silent", Help: "1 while the hub is silent on every uplink."}),
		switches: counter("switches_total", "Changes of the uplink, by the new one.", "uplink"),
		rounds:   counter("rounds_total", "Rounds of probes.", "uplink"),
		pings:    f.NewCounter(prometheus.CounterOpts{Name: "rescuebox_link_inner_probes_total", Help: "Pings of the hub through the tunnel."}),
		doubts:   f.NewCounter(prometheus.CounterOpts{Name: "rescuebox_link_doubts_total", Help: "Times that the tunnel went by all uplinks because an answer was late."}),
	}
}

// show sets the gauges that a step may have changed.
func (m *metrics) show(s Status) {
	for _, u := range s.Uplinks {
		for _, h := range []Health{Absent, Unproven, Alive, Dead, Failed} {
			m.health.WithLabelValues(u.Name, string(h)).Set(number(h == u.Health))
		}
		m.active.WithLabelValues(u.Name).Set(number(u.Name == s.Active))
		m.rtt.WithLabelValues(u.Name).Set(u.RTT.Seconds())
	}
	m.silent.Set(number(!s.Silent.IsZero()))
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
