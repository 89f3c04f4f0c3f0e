package admin

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics of the API. They are made once, though Run may be called again after a failure.
type metrics struct {
	requests *prometheus.CounterVec
	failures prometheus.Counter
	lockouts prometheus.Counter
	streams  prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) metrics {
	f := promauto.With(reg)
	return metrics{
		requests: f.NewCounterVec(prometheus.CounterOpts{
			Name: "rescuebox_admin_requests_total", Help: "API calls by route and status."}, []string{"route", "status"}),
		failures: f.NewCounter(prometheus.CounterOpts{
			Name: "rescuebox_admin_wrong_tokens_total", Help: "API calls with a wrong token."}),
		lockouts: f.NewCounter(prometheus.CounterOpts{
			Name: "rescuebox_admin_lockouts_total", Help: "Times an address was locked out."}),
		streams: f.NewGauge(prometheus.GaugeOpts{
			Name: "rescuebox_admin_event_streams", Help: "Open event streams."}),
	}
}
