//go:build !race

package vpn

const raceEnabled = false
