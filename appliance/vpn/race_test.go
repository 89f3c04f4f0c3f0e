//go:build race

package vpn

// raceEnabled is whether the race detector takes memory of its own.
const raceEnabled = true
