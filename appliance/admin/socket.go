package admin

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"go.uber.org/zap"

	"rescuebox/appliance/admin/api"
)

// listenUnix listens on a socket that only its owner and the group may use.
// The socket of a daemon that was killed is replaced, that of a living one is not.
func listenUnix(path, group string, log *zap.Logger) (net.Listener, error) {
	if err := removeStale(path); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of the API's socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on the API's socket: %w", err)
	}
	if gid, err := groupID(group); err != nil {
		log.Warn("API's socket stays with the daemon's own group: make the group with systemd-sysusers or groupadd --system",
			zap.String("group", group), zap.NamedError("err", err))
	} else if err := os.Chown(path, -1, gid); err != nil {
		log.Warn("API's socket stays with the daemon's own group", zap.String("group", group), zap.NamedError("err", err))
	}
	if err := os.Chmod(path, 0o660); err != nil {
		l.Close()
		return nil, fmt.Errorf("set the mode of the API's socket: %w", err)
	}
	return l, nil
}

// groupID finds a group's number; that of "" leaves the group as it is.
func groupID(name string) (int, error) {
	if name == "" {
		return -1, nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(g.Gid)
}

// removeStale makes room for a socket, unless somebody listens there.
func removeStale(path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at the API's socket: %w", err)
	}
	if fi.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is there and is no socket: move it away, or set socket in [admin]", path)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		conn.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("another rescueboxd answers on %s: stop it first (systemctl stop rescueboxd), or set socket in [admin]", path)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove the stale socket of the API: %w", err)
	}
	return nil
}

// peerKey is the context key of the identity that the kernel vouches for.
type peerKey struct{}

// withPeer notes who is at the other end of a Unix socket.
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	if _, encrypted := conn.(*tls.Conn); encrypted {
		return ctx
	}
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return ctx
	}
	name, err := peerName(u)
	if err != nil {
		return ctx // nobody: such a caller needs a token
	}
	return context.WithValue(ctx, peerKey{}, api.Identity{Name: name, Role: api.Admin, From: "socket"})
}

// peerName is the user at the other end (SO_PEERCRED, unix(7)). Whoever the
// socket's mode lets in is an admin; the name is for the audit log.
func peerName(conn *net.UnixConn) (string, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return "", err
	}
	var cred *syscall.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err = errors.Join(err, credErr); err != nil {
		return "", err
	}
	uid := strconv.FormatUint(uint64(cred.Uid), 10)
	if u, err := user.LookupId(uid); err == nil {
		return u.Username, nil
	}
	return "uid " + uid, nil
}

// remote is the address of a caller over TLS.
func remote(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}
