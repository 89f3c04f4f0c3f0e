// Package boottest simulates machines that boot from the network, as
// net/http/httptest does for web servers: a LAN in network namespaces, cards with their own
// MAC addresses, and firmware personalities. Each personality is a short script of the packets
// that one kind of firmware sends and the answers that it accepts, with the
// place where that is known from. What it loads it also starts, if it is a
// Program: shim, GRUB, iPXE and Windows' boot manager go on loading in their
// own ways, over real sockets, up to the last file.
//
//	lan, err := boottest.NewLAN()
//	card, err := lan.Plug(mac)
//	m := &boottest.Machine{Card: card}
//	outcome := m.PowerOn(p)
//
// A simulated machine is pedantic. It takes what its model takes, and beside
// that notes in Outcome.Complaints whatever some real firmware chokes on: an
// option 97 that is not repeated, a boot file name without NUL, HTTP in chunks.
//
// It needs root, and Linux.
package boottest
