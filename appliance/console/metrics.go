package console

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics of all consoles.
type metrics struct {
	connected, readers          *prometheus.GaugeVec
	losses, received, forgotten *prometheus.CounterVec
}

// lineMetrics are those of one console.
type lineMetrics struct {
	connected, readers          prometheus.Gauge
	losses, received, forgotten prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) metrics {
	f, by := promauto.With(reg), []string{"machine"}
	return metrics{
		connected: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "rescuebox_console_connected", Help: "Whether a machine's console is connected."}, by),
		readers: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "rescuebox_console_readers", Help: "Sessions that look at a machine's console."}, by),
		losses: f.NewCounterVec(prometheus.CounterOpts{
			Name: "rescuebox_console_losses_total", Help: "Times a machine's console was lost."}, by),
		received: f.NewCounterVec(prometheus.CounterOpts{
			Name: "rescuebox_console_received_bytes_total", Help: "Bytes that came from a machine's console."}, by),
		forgotten: f.NewCounterVec(prometheus.CounterOpts{
			Name: "rescuebox_console_forgotten_bytes_total", Help: "Bytes of a machine's console that the log does not keep."}, by),
	}
}

func (m metrics) of(machine string) lineMetrics {
	return lineMetrics{m.connected.WithLabelValues(machine), m.readers.WithLabelValues(machine), m.losses.WithLabelValues(machine),
		m.received.WithLabelValues(machine), m.forgotten.WithLabelValues(machine)}
}
