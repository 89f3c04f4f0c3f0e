package images

import "fmt"

// Hinted is an error with what to do about it. Its text is the error's alone: whoever
// shows it shows the hint in a place of its own.
type Hinted struct {
	Err  error
	Hint string
}

func (e *Hinted) Error() string { return e.Err.Error() }
func (e *Hinted) Unwrap() error { return e.Err }

func hint(err error, format string, a ...any) error {
	return &Hinted{err, fmt.Sprintf(format, a...)}
}
