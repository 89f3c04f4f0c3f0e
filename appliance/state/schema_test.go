package state

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// dump is the schema of an open file as SQL.
func dump(t *testing.T, db *DB) string {
	t.Helper()
	var b strings.Builder
	err := db.read("SELECT 0, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY name", nil, func(_ int64, sql string) error {
		b.WriteString(strings.Join(strings.Fields(sql), " ") + ";\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestSchema: the schema is what testdata says. A change needs a new step in
// schema, never a change of an old one, and then UPDATE_GOLDEN=1 go test ./appliance/state.
func TestSchema(t *testing.T) {
	got := dump(t, mustOpen(t, filepath.Join(t.TempDir(), "s.db")))
	const golden = "testdata/schema.sql"
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("schema: -%s +now\n%s", golden, d)
	}
}

// TestUpgrade opens a file as the first release wrote it.
func TestUpgrade(t *testing.T) {
	path := filepath.Join(t.TempDir(), "old.db")
	script, err := os.ReadFile("testdata/release1.sql")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := dial(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.script(string(script)); err != nil {
		t.Fatal(err)
	}
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	// What the next releases may do, so that more than one step is gone.
	steps := append(append([]string(nil), schema...),
		"CREATE TABLE later (key TEXT PRIMARY KEY, doc TEXT)",
		"ALTER TABLE later ADD COLUMN due INTEGER; UPDATE orders SET doc = json_set(doc, '$.Name', upper(doc ->> '$.Name'))")
	db, err := open(path, steps)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if n, err := db.conn.number("PRAGMA user_version"); err != nil || n != int64(len(steps)) {
		t.Errorf("version %d, %v", n, err)
	}
	got, err := NewTable[doc](db, "orders", Durable).All()
	if want := []doc{{Name: "SRV01", N: 7}}; err != nil || !cmp.Equal(want, got) {
		t.Error(cmp.Diff(want, got), err)
	}
	events, err := NewLog[doc](db, "events", Relaxed, 10).Read("0badcafe", 0, 0)
	if want := []doc{{Name: "armed", Seq: 41}, {Name: "offer", Seq: 42}}; err != nil || !cmp.Equal(want, events) {
		t.Error(cmp.Diff(want, events), err)
	}
	if seq, err := NewLog[doc](db, "events", Relaxed, 10).Append("0badcafe", doc{}); seq != 51 || err != nil {
		t.Errorf("the next number is %d, %v; want 51, since 50 was given out once", seq, err)
	}
	if !strings.Contains(dump(t, db), "due INTEGER") {
		t.Error("the last step was not taken")
	}
}

func TestNewerFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rescuebox.db")
	db, err := open(path, append(append([]string(nil), schema...), "CREATE TABLE tomorrow (key TEXT)"))
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = Open(path)
	wants(t, err, path, "newer rescueboxd")
	if kept, _ := filepath.Glob(path + "*"); !cmp.Equal(kept, []string{path}) {
		t.Errorf("the newer file was touched: %v", kept)
	}
}

// TestMigrationFails: a step that fails leaves nothing behind.
func TestMigrationFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rescuebox.db")
	_, err := open(path, append(append([]string(nil), schema...), "CREATE TABLE half (key TEXT); CREATE TABLE orders (key TEXT)"))
	wants(t, err, path, fmt.Sprintf("schema %d", len(schema)+1), "already exists")
	db := mustOpen(t, path)
	if db.Warning() != nil || strings.Contains(dump(t, db), "half") {
		t.Errorf("warning %v, schema %s", db.Warning(), dump(t, db))
	}
}
