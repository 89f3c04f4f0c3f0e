// Package boot decides what a machine boots now. It is the one place that
// does: DHCP, TFTP and HTTP all ask Decide, several times in one boot, because
// the protocols keep no state between their packets.
package boot
