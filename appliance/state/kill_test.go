package state

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	killRounds  = 30
	killMark    = "RESCUEBOX_TEST_KILL"   // the child's file
	killVersion = "RESCUEBOX_TEST_SCHEMA" // the schema that the child migrates to
	killBase    = "RESCUEBOX_TEST_BASE"   // the number of its first document
	killAfter   = 10                      // documents that a child has confirmed at least, however slow the disk is
)

// killSteps is a schema with n steps of the future, each slow enough to be
// killed in its middle.
func killSteps(n int) []string {
	steps := append([]string(nil), schema...)
	for i := range n {
		steps = append(steps, fmt.Sprintf(`CREATE TABLE future%d (n INTEGER PRIMARY KEY, doc TEXT);
			WITH RECURSIVE count(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM count WHERE n < 3000)
			INSERT INTO future%d SELECT n, hex(randomblob(100)) FROM count`, i, i))
	}
	return steps
}

// killChild writes until it is killed, and says on stdout what was
// acknowledged: "orders 3 17" once document 17 of key 3 is put.
func killChild(path string) error {
	version, err := strconv.Atoi(os.Getenv(killVersion))
	if err != nil {
		return err
	}
	db, err := open(path, killSteps(version))
	if err != nil {
		return err
	}
	if db.Warning() != nil {
		return db.Warning()
	}
	fmt.Println("open", version, 0)
	base, err := strconv.ParseInt(os.Getenv(killBase), 10, 64)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	var out sync.Mutex
	for _, table := range []string{"orders", "tickets", "leases"} {
		docs := NewTable[int64](db, table, table != "leases")
		for w := range 4 {
			wg.Go(func() {
				for i := base; ; i++ {
					key := w*10 + int(i%10)
					if err := docs.Put(fmt.Sprint(key), i); err != nil {
						panic(err)
					}
					out.Lock()
					fmt.Println(table, key, i)
					out.Unlock()
				}
			})
		}
	}
	wg.Wait()
	return nil
}

// TestKill kills a writing daemon at any moment, again and again: whatever it
// acknowledged is there afterwards, the file is whole, and migrations go on.
func TestKill(t *testing.T) {
	if path := os.Getenv(killMark); path != "" {
		t.Fatal(killChild(path))
	}
	path := filepath.Join(t.TempDir(), "rescuebox.db")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	acked := map[string]int64{} // "orders 3" → the last document that Put confirmed
	total, reached := 0, 0
	for round := range killRounds {
		version := round / 5
		// The first two of a schema are killed before they have opened the file, at times.
		lines := runAndKill(t, path, version, int64(round+1)<<32, round%5 > 1, time.Duration(20+rnd.IntN(350))*time.Millisecond)
		for _, l := range lines {
			table, rest, _ := strings.Cut(l, " ")
			if table == "open" {
				reached++
				continue
			}
			key, n, _ := strings.Cut(rest, " ")
			acked[table+" "+key], _ = strconv.ParseInt(n, 10, 64)
			total++
		}
		// In every other round the next child does the recovery.
		if round%2 == 1 || round == killRounds-1 {
			verifyKilled(t, path, version, acked)
		}
	}
	t.Logf("%d kills, %d of them after the start, %d documents acknowledged", killRounds, reached, total)
	if total < 100 {
		t.Errorf("the children hardly wrote: %d starts, %d documents", reached, total)
	}
}

// runAndKill runs a child, kills it a while after it was started or has written to the
// file, and returns the whole lines that it wrote.
func runAndKill(t *testing.T, path string, version int, base int64, writes bool, after time.Duration) (lines []string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKill$")
	cmd.Env = append(os.Environ(), killMark+"="+path, killVersion+"="+strconv.Itoa(version), killBase+"="+strconv.FormatInt(base, 10))
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := func() { time.AfterFunc(after, func() { cmd.Process.Kill() }) }
	if !writes {
		kill()
	}
	for s := bufio.NewReader(out); ; {
		line, err := s.ReadString('\n')
		if err != nil {
			break // a line without its end was never acknowledged to us
		}
		if lines = append(lines, strings.TrimSpace(line)); writes && len(lines) == 1+killAfter {
			kill()
		}
	}
	if err := cmd.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Fatalf("the child was not killed: %v\n%s%s", err, strings.Join(lines, "\n"), errs.Bytes())
	}
	return lines
}

func verifyKilled(t *testing.T, path string, version int, acked map[string]int64) {
	t.Helper()
	db, err := open(path, killSteps(version))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if db.Warning() != nil {
		t.Fatal(db.Warning())
	}
	if err := db.conn.check("integrity_check"); err != nil {
		t.Fatal(err)
	}
	for i := range version {
		if n, err := db.conn.number(fmt.Sprintf("SELECT count(*) FROM future%d", i)); n != 3000 || err != nil {
			t.Errorf("step %d: %d rows, %v", i, n, err)
		}
	}
	stored := map[string]int64{}
	for _, table := range []string{"orders", "tickets", "leases"} {
		err := db.read("SELECT CAST(key AS INTEGER), doc FROM "+table, nil, func(key int64, doc string) error {
			n, err := strconv.ParseInt(doc, 10, 64)
			stored[fmt.Sprint(table, " ", key)] = n
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for key, n := range acked {
		// One document more may be there: written, its line not yet out.
		if stored[key] < n {
			t.Errorf("%s: document %d was acknowledged, stored is %d", key, n, stored[key])
		}
	}
}
