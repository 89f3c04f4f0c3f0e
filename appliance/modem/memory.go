package modem

// Memory keeps what a modem must know after a restart: state.Table[modem.Record].
type Memory interface {
	Put(key string, r Record) error
	All() ([]Record, error)
}

// Record is what one modem remembers.
type Record struct {
	Name string `json:"name"`
}

type record struct{ Record }
