//go:build !go1.26

package main

import "context"

// serveSSH says that this build has no SSH server: it is made for DaRT and for
// Windows PE before 10, with a Go that knows nothing newer.
func (m *pe) serveSSH(_ context.Context, _ boxClient, say *sayer) {
	say.tell("this image has no " + remoteRecovery + ", and SSH is for Windows PE 10 and later: there is no way in but the screen")
}
