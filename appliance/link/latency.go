package link

import "time"

// latency is how long answers usually take (RFC 6298 section 2). Its zero value is ready.
type latency struct {
	mean, dev time.Duration
}

func (l *latency) add(d time.Duration) {
	if l.mean == 0 {
		l.mean, l.dev = d, d/2
		return
	}
	l.dev += ((d - l.mean).Abs() - l.dev) / 4
	l.mean += (d - l.mean) / 8
}

// late is when an answer is late: slack or more, and well beyond what is usual.
func (l *latency) late(slack time.Duration) time.Duration {
	return max(slack, min(l.mean+4*l.dev+slack/2, l.mean+time.Second))
}
