package ticket

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// How often the directory is looked at.
const (
	rescan    = 30 * time.Second       // where the kernel told nothing: other hosts' file systems, a full queue
	settle    = 10 * time.Second       // what does not read as a whole ticket may still be being written
	breath    = 100 * time.Millisecond // at least between two looks
	rest      = 4                      // at least so many times as long as a look: who floods the directory shall not keep the box busy
	batch     = 256                    // names that are read at once
	maxWarned = 1024                   // files that a warning was given for
)

// Drop takes tickets out of a directory: a share on which scripts put
// inv32.xml. It looks at files alone, neither at directories nor through links, and
// only at those named *.xml or inv32*. Whose a file is, its name says (srv01.xml,
// inv32-srv01.xml, 52-54-00-12-34-56.xml), else the addresses in it; nobody has
// proved anything, so its ticket is not verified. A file is removed when the desk
// has it on disk, byte for byte. What has a ticket's name and cannot be one gets
// another, since the next machine may need that name; whatever else lies there stays as it is.
type Drop struct {
	Dir       string
	MachineOf func(netip.Addr) (machine string, ok bool) // whose address it is
	Named     func(string) (machine string, ok bool)     // whose name (in any case) or MAC (in any form) it is
	Desk      *Desk
	Log       *zap.Logger // nil: nothing is logged

	settle time.Duration // tests shorten it
}

// Run calls ready when the directory is watched, and takes files in until ctx is done.
func (d *Drop) Run(ctx context.Context, ready func()) error {
	s, err := d.search()
	if err != nil {
		return err
	}
	w, err := watch(d.Dir)
	if err != nil {
		return fmt.Errorf("watch the drop directory %s: %w", d.Dir, err)
	}
	defer w.stop()
	ready()
	for {
		begin := time.Now()
		pending, err := s.look()
		if err != nil {
			return fmt.Errorf("read the drop directory %s: %w", d.Dir, err)
		}
		wait := rescan
		if pending {
			wait = s.settle
		}
		if err := w.wait(ctx, max(breath, rest*time.Since(begin)), wait); err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// search is a Drop that runs.
type search struct {
	Drop
	is     fs.FileInfo // the directory that is watched
	dir    *os.File    // while it is looked at: an open one would not tell that it was removed
	warned map[string]bool
}

// search finds out before the first ticket comes that none could be taken.
func (d *Drop) search() (*search, error) {
	s := &search{Drop: *d, warned: map[string]bool{}}
	s.settle = cmp.Or(s.settle, settle)
	if s.Log == nil {
		s.Log = zap.NewNop()
	}
	var err error
	if s.is, err = os.Stat(d.Dir); err != nil {
		return nil, fmt.Errorf("drop directory: %w: make it, owned by the daemon's user, or set [ticket] drop_dir", err)
	}
	if !s.is.IsDir() {
		return nil, fmt.Errorf("drop directory %s is no directory: set [ticket] drop_dir", d.Dir)
	}
	if err := unix.Faccessat(unix.AT_FDCWD, d.Dir, unix.R_OK|unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
		return nil, fmt.Errorf("drop directory %s: %w: the daemon must read and write it: make its user the owner, and name it in ReadWritePaths= of its unit", d.Dir, err)
	}
	return s, nil
}

// look takes in what is there; pending says that some of it is not ready yet.
func (s *search) look() (pending bool, err error) {
	if s.dir, err = os.Open(s.Dir); err != nil {
		return false, err
	}
	defer s.dir.Close()
	if is, err := s.dir.Stat(); err != nil || !os.SameFile(is, s.is) {
		return false, errors.Join(err, errors.New("another directory or file system has taken its place"))
	}
	for {
		names, err := s.dir.Readdirnames(batch)
		for _, name := range names {
			if !s.file(name) {
				pending = true
			}
		}
		if err == io.EOF {
			return pending, nil
		}
		if err != nil {
			return false, err
		}
	}
}

// file takes one file in, if it is one; false where it shall be looked at again soon.
func (s *search) file(name string) (settled bool) {
	if !isTicketName(name) {
		if !strings.HasSuffix(name, refused) {
			s.warn(name, "a file in the drop directory is not named *.xml or inv32*, it stays there")
		}
		return true
	}
	f, info, err := s.open(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return true
	case errors.Is(err, errNoFile):
		s.setAside(name, err)
		return true
	case err != nil:
		s.warn(name, "a file in the drop directory cannot be read: "+bareErrno(err))
		return true
	}
	defer f.Close()
	if info.Size() > MaxReport {
		if !beingWritten(f) {
			s.setAside(name, errTooLarge)
		}
		return true
	}
	raw, err := io.ReadAll(io.LimitReader(f, MaxReport+1))
	if err != nil || len(raw) > MaxReport {
		return false // it grows, or the disk fails: later
	}
	if beingWritten(f) {
		return false
	}
	i, err := ParseInvitation(raw)
	if err != nil && time.Since(changed(info)) < s.settle {
		return false
	}
	machine := s.machine(name, i)
	t, err := s.Desk.DaRT(machine, "", false, netip.Addr{}, raw)
	if err != nil {
		s.warn(name, "a ticket of the drop directory is not taken yet: "+err.Error())
		return true // with the next look at all
	}
	if machine == "" {
		s.Log.Warn("a ticket of the drop directory belongs to no machine that is known", zap.String("ticket", t.ID))
	}
	s.remove(name, info)
	return true
}

// isTicketName keeps hands off other files, should somebody name a directory
// that others use.
func isTicketName(name string) bool {
	name = strings.ToLower(name)
	if strings.HasSuffix(name, refused) {
		return false
	}
	return strings.HasSuffix(name, ".xml") || strings.HasPrefix(name, "inv32")
}

// open opens a regular file and nothing else. A device may do something when it
// is opened, so it is not; a pipe would wait for its writer.
func (s *search) open(name string) (*os.File, fs.FileInfo, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(int(s.dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, nil, errNoFile
	}
	fd, err := unix.Openat(int(s.dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errNoFile
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// Why something in the directory can be no ticket.
var (
	errNoFile   = errors.New("it is a link, a directory, a pipe or a device")
	errTooLarge = errors.New("it is too large")
)

// refused ends the names of what was set aside.
const refused = ".refused"

// setAside frees a ticket's name of what is none.
func (s *search) setAside(name string, why error) {
	s.warn(name, "what has a ticket's name in the drop directory is none, and gets the name "+refused+": "+why.Error())
	to := fmt.Sprintf("%.200s.%08x%s", name, rand.Uint32(), refused)
	if err := unix.Renameat(int(s.dir.Fd()), name, int(s.dir.Fd()), to); err != nil {
		s.warn(name, "what is no ticket keeps a ticket's name in the drop directory: "+bareErrno(err))
	}
}

// bareErrno is an error without the path in it.
func bareErrno(err error) string {
	var no syscall.Errno
	if errors.As(err, &no) {
		return no.Error()
	}
	return err.Error()
}

// beingWritten reports whether somebody has the file open for writing: the
// kernel gives no lease for reading then (fcntl(2)). It asks nobody but a
// file's owner; for others the wait must do.
func beingWritten(f *os.File) bool {
	_, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_RDLCK)
	if err == nil {
		_, _ = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
	}
	return errors.Is(err, unix.EAGAIN)
}

// changed is when a file was last changed, by this box's clock: its modification
// time is whatever the machine that copied it says.
func changed(info fs.FileInfo) time.Time {
	return time.Unix(info.Sys().(*syscall.Stat_t).Ctim.Unix())
}

// machine tells whose a file is, by its name or by the addresses in it. Two
// machines' addresses in one ticket say nothing.
func (s *search) machine(name string, i Invitation) string {
	if m, ok := s.Named(namedIn(name)); ok {
		return m
	}
	found := ""
	for _, l := range append(i.Listeners, i.Websockets...) {
		switch m, ok := s.MachineOf(l.Addr()); {
		case !ok || m == found:
		case found != "":
			return ""
		default:
			found = m
		}
	}
	return found
}

// namedIn is the machine's part of a file's name: inv32-srv01.xml, srv01_inv32.xml, srv01.xml.
func namedIn(file string) string {
	name := strings.ToLower(strings.TrimSuffix(file, filepath.Ext(file)))
	name = strings.TrimSuffix(strings.TrimPrefix(name, "inv32"), "inv32")
	return strings.Trim(name, "-_. ")
}

// remove removes what the desk has, unless another file has got the name.
func (s *search) remove(name string, read fs.FileInfo) {
	var st unix.Stat_t
	err := unix.Fstatat(int(s.dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	was := read.Sys().(*syscall.Stat_t)
	if err != nil || st.Ino != was.Ino || st.Ctim.Nano() != was.Ctim.Nano() || st.Size != was.Size {
		return
	}
	if err := unix.Unlinkat(int(s.dir.Fd()), name, 0); err != nil {
		s.warn(name, "a ticket that was taken stays in the drop directory: "+bareErrno(err))
	}
}

// numberForm is a ticket number: some scripts make it the file's name.
var numberForm = regexp.MustCompile(`[0-9]{3}-[0-9]{3}-[0-9]{3}`)

// warn says something of a file once.
func (s *search) warn(name, text string) {
	if s.warned[name+text] {
		return
	}
	if len(s.warned) >= maxWarned {
		clear(s.warned)
	}
	s.warned[name+text] = true
	s.Log.Warn(text, zap.String("file", numberForm.ReplaceAllString(clean(name), "(ticket)")))
}
