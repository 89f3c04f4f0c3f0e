package httpboot

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	requests  *prometheus.CounterVec // by result
	sent      prometheus.Counter
	transfers prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) metrics {
	return metrics{
		requests: register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rescuebox_httpboot_requests_total",
			Help: "Requests by result: sent, broken, refused, failed; connections without a readable request: invalid; refused ones: busy.",
		}, []string{"result"})),
		sent: register(reg, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rescuebox_httpboot_sent_bytes_total", Help: "Bytes of files sent."})),
		transfers: register(reg, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "rescuebox_httpboot_transfers", Help: "Files being sent."})),
	}
}

// register keeps counting where a part that was started again finds the
// collectors of its former life.
func register[C prometheus.Collector](reg prometheus.Registerer, c C) C {
	if reg == nil {
		return c
	}
	var already prometheus.AlreadyRegisteredError
	if err := reg.Register(c); errors.As(err, &already) {
		return already.ExistingCollector.(C)
	}
	return c
}
