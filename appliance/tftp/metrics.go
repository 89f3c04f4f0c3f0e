package tftp

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	requests  *prometheus.CounterVec // by result
	sent      prometheus.Counter
	resent    prometheus.Counter
	transfers prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) metrics {
	return metrics{
		requests: register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rescuebox_tftp_requests_total",
			Help: "Requests by result: sent, taken (a ticket), probed, broken, refused, busy, invalid, repeated, failed.",
		}, []string{"result"})),
		sent: register(reg, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rescuebox_tftp_sent_bytes_total", Help: "Bytes of files that clients acknowledged."})),
		resent: register(reg, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rescuebox_tftp_resent_blocks_total", Help: "Blocks sent again, because no acknowledgement came."})),
		transfers: register(reg, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "rescuebox_tftp_transfers", Help: "Transfers going on."})),
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
